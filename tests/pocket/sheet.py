"""A contact sheet: each sample with the training picture of the same caption to its right, and the caption below."""
from PIL import Image, ImageDraw, ImageFont

CELL, GAP, LINE = 64, 10, 24


def _wrap(text, width=19):
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(line[:width + 3] for line in lines[:2])


def write(path, samples, references, captions, columns=6):
    """samples, references: float 0..1 [n, 3, 64, 64]; writes a palette PNG (small enough for the docs)."""
    rows = -(-len(samples) // columns)
    wide, high = 2 * CELL + GAP, CELL + LINE + GAP
    page = Image.new("RGB", (columns * wide + GAP, rows * high + GAP), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(9)
    for i, caption in enumerate(captions):
        x, y = GAP + i % columns * wide, GAP + i // columns * high
        for k, picture in enumerate((samples[i], references[i])):
            pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            page.paste(Image.fromarray(pixels), (x + k * CELL, y))
        pen.multiline_text((x, y + CELL), _wrap(caption), fill="black", font=font, spacing=1)
    page.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
