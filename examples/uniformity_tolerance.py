"""Draw the uniformity-tolerance curve: how the temperature of a contrastive loss spreads embeddings or lets classes be.

python examples/uniformity_tolerance.py curve.svg

Along the ordinary loss both rise with the temperature; hard negatives chosen by a threshold keep the spread at any.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from assay.engine import Run
from assay.methods.contrastive_temperature import ContrastiveTemperature
from assay.tasks import load

Point = tuple[float, float]
WIDTH, HEIGHT, MARGIN = 480, 360, 60
COLOURS = {"contrastive": "#1f6fb2", "hard": "#c2410c"}


def sweep(temperatures: Sequence[float], budget: str, seed: int) -> dict[str, list[Point]]:
    """(uniformity, tolerance) of unseen points for each loss, a temperature after another."""
    task = load("contrastive:data=clusters")
    found: dict[str, list[Point]] = {}
    for form in ("contrastive", "hard"):
        for tau in temperatures:
            recipe = task.recipe.with_methods([ContrastiveTemperature(form, tau, alpha=0.1)])
            figures = Run(task, recipe, seed, budget, vary=task.varies, evaluations=0).train().metrics["test"]
            found.setdefault(form, []).append((figures["uniformity"], figures["tolerance"]))
            print(f"{form:12} tau {tau:<5g} uniformity {found[form][-1][0]:.3f} tolerance {found[form][-1][1]:.3f}")
    return found


def svg(curves: dict[str, list[Point]], temperatures: Sequence[float]) -> str:
    points = [point for curve in curves.values() for point in curve]
    low, high = ([pick(p[axis] for p in points) for axis in (0, 1)] for pick in (min, max))

    def place(point: Point) -> Point:
        x, y = ((point[i] - low[i]) / ((high[i] - low[i]) or 1) for i in (0, 1))
        return MARGIN + x * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - y * (HEIGHT - 2 * MARGIN)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="11">',
        f'<text x="{WIDTH // 2 - 70}" y="{HEIGHT - 15}">uniformity, {low[0]:.2f} to {high[0]:.2f}</text>',
        f'<text x="10" y="25">tolerance, {low[1]:.2f} to {high[1]:.2f}</text>',
    ]
    for row, (form, curve) in enumerate(curves.items()):
        places = [place(point) for point in curve]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[form]}"/>')
        parts.append(f'<text x="{WIDTH - 90}" y="{25 + 15 * row}" fill="{COLOURS[form]}">{form}</text>')
        for (x, y), tau in zip(places, temperatures, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[form]}"/>')
            parts.append(f'<text x="{x + 5:.1f}" y="{y - 5:.1f}">{tau:g}</text>')
    return "\n".join([*parts, "</svg>"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.2, 0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--budget", default="400steps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.write_text(svg(sweep(options.temperatures, options.budget, options.seed), options.temperatures))


if __name__ == "__main__":
    main()
