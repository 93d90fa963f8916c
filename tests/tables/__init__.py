"""The paper's tables on scenes: `make tables` measures every row, and with TABLES=--final writes docs/results/tables.md."""
