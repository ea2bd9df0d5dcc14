"""Create a picture for the documentation: the curve of a scalar of a run, from its stats.jsonl.

    python docs/plot.py OUT.svg results/00000-stylegan2-mine-1gpu-config-f Metrics/fid50k
"""

from __future__ import annotations

import argparse

from training.run import charts, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', help='SVG file to write', metavar='OUT.svg')
    parser.add_argument('run_dir', help='folder of a run', metavar='RUN_DIR')
    parser.add_argument('tag', help='name of the scalar', metavar='TAG')
    args = parser.parse_args()

    points = [(line['kimg'], line[args.tag]) for line in report.read_stats(args.run_dir) if args.tag in line]
    if not points:
        parser.error(f'{args.run_dir}/stats.jsonl: expected values of {args.tag}, found none')
    charts.save_svg(charts.chart([charts.Curve(args.tag, points, 0)], 'kimg', args.tag), args.out)
    print(f'{args.tag} over kimg: {", ".join(f"{y:.1f} at {x:.3g}" for x, y in points)}')


if __name__ == '__main__':
    main()
