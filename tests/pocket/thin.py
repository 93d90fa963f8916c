"""Thins subjects.tsv: of the most alike training subjects of a domain, one moves to the split "spare", until KEEP are left.

The autoencoder, the vocabulary and the experts use the spare subjects; the base does not.
"""
import torch

from . import common, data

KEEP = 150


def alike(domain):
    """-> (training subjects, distances [n, n] between their pictures, averaged over the hands)"""
    subjects = data.subjects("train", domain)
    pictures, _, order = data.load("train", common.HANDS)
    at = [[i for i, s in enumerate(order) if s == subject] for subject in subjects]
    small = torch.nn.functional.avg_pool2d(pictures.float() / 255, 2).flatten(1)
    return subjects, sum(torch.cdist(small[[a[h] for a in at]], small[[a[h] for a in at]]) for h in range(len(common.HANDS)))


def main():
    spare = set()
    for domain in common.DOMAINS:
        subjects, far = alike(domain)
        far.fill_diagonal_(torch.inf)
        left = list(range(len(subjects)))
        while len(left) > KEEP:
            sub = far[left][:, left]
            i, j = divmod(int(sub.argmin()), len(left))
            # of the two, the one that is also closer to all the others goes
            gone = left[min(i, j, key=lambda k: float(sub[k].sort().values[1]))]
            left.remove(gone)
            spare.add(subjects[gone].code)
        print(domain, "spare:", ", ".join(s.name for s in subjects if s.code in spare))
    lines = [f"{s.code}\t{s.name}\t{s.domain}\t{'spare' if s.code in spare else s.split}\t{s.kind}" for s in data.subjects()]
    (common.HERE / "subjects.tsv").write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
