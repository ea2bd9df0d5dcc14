"""`python -m bench PAGE [flags]`: one page of measurements."""

import importlib
import os
import sys

PAGES = {
    'data': 'dataset_tool.py against a plain writer, its memory, and the reader against the speed of training',
    'ops': 'upfirdn_2d and fused_bias_act against a copy of the same bytes, the reference form and one-channel convolutions',
    'metrics': 'evaluation of metrics against bare networks; precision and recall in blocks against plain NumPy',
    'projector': "the projector's step against its generator and distance alone, forward and backward",
    'kernels': "TensorFlow's own CPU kernels and those of oneDNN side by side, for each kind of work",
    'generator': 'the generator against its convolutions at the rate of matrix products',
    'training': 'the phases of a training step against the same, its memory, and the forms of the ops',
    'startup': 'how soon the commands answer: --help, the first picture, the first step of training',
    'growth': 'cost of training over resolution, width and minibatch, against the growth of the work',
    'precision': 'the distance that training in bfloat16 reaches, against float32: the runs of make demo-precision',
    'demo': 'what settings of make demo reach in a number of CPU seconds: distance, precision and recall of the new faces',
    'stages': 'time and memory of progressive growing at each resolution',
    'scale': 'estimate of config-f at 1024x1024 on many accelerators, from its work, bytes and the reader',
}


def main():
    page = sys.argv[1] if len(sys.argv) > 1 else None
    if page not in PAGES:
        print('usage: python -m bench PAGE [--help]\n\npages:\n' + '\n'.join(f'  {name:<10}  {what}' for name, what in PAGES.items()),
              file=sys.stdout if page in ('-h', '--help') else sys.stderr)
        sys.exit(0 if page in ('-h', '--help') else 2)
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # TensorFlow's lines would stand between those of the page.
    importlib.import_module(f'bench.{page}').main(sys.argv[2:], prog=f'python -m bench {page}')


if __name__ == '__main__':
    main()
