"""The paper's tables on the pocket experts: `make tables` measures every system, and writes docs/results/tables.md."""
