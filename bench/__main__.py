"""`python -m bench PAGE [flags]`: one page of measurements.

With --tf32, GPUs compute float32 in TF32 on any page; without it they do not.
"""

import importlib
import os
import sys

PAGES = {
    'data': 'dataset_tool.py against a plain writer, its memory, and the reader against the speed of training',
    'ops': 'the native ops against a copy of the same bytes, the reference form and one-channel convolutions',
    'metrics': 'evaluation of metrics against the bare networks; precision and recall in blocks against plain NumPy',
    'projector': "the projector's step against its generator and distance alone, forward and backward",
    'latents': 'films against the bare generator, and the principal components of W',
    'export': 'a picture in onnxruntime and LiteRT, and here',
    'explorer': "the explorer's pictures against the bare generator, and its previews against its pictures",
    'kernels': "TensorFlow's own CPU kernels and oneDNN's side by side, for each kind of work",
    'generator': 'the generator against its convolutions at the rate of matrix products',
    'training': 'the phases of a training step against the same limit, its memory, and the forms of the ops',
    'augment': 'what augmentation adds to the time of a training iteration',
    'startup': 'how soon the commands respond: --help, the first image, the first step of training',
    'launches': 'kernels that a GPU launches for an iteration of training, counted in its graphs',
    'growth': 'cost of training over resolution, width and minibatch, compared with the growth of the work',
    'precision': 'the metric that training reaches in bfloat16 and in float32: the runs of make demo-precision',
    'demo': 'what settings of make demo reach with a given amount of work: metrics of the new faces',
    'small-data': 'training with 100, 300 and 1,000 faces, with and without ADA: distance, recall, p, r_t, scores of D',
    'family': 'ProGAN, StyleGAN, MSG-StyleGAN and StyleGAN2 on the faces of the demo, trained for the same time',
    'stages': 'time and memory of progressive growing at each resolution',
    'memory': 'memory that training needs by reckoning, and the largest --minibatch-gpu for GPUs of several sizes',
    'scale': 'estimated speed of config-f at 1024x1024 on many accelerators, from its work, its bytes and the reader',
}


def main() -> None:
    """Run the page that the first argument names."""
    page = sys.argv[1] if len(sys.argv) > 1 else None
    if page not in PAGES:
        asked = page in ('-h', '--help')
        pages = '\n'.join(f'  {name:<10}  {what}' for name, what in PAGES.items())
        print(f'usage: python -m bench PAGE [--tf32] [--help]\n\npages:\n{pages}',
              file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # Keeps TensorFlow's log out of the page.
    argv = [arg for arg in sys.argv[2:] if arg != '--tf32']
    if len(argv) == len(sys.argv[2:]):
        os.environ['NVIDIA_TF32_OVERRIDE'] = '0'  # Holds for child processes, too.
    importlib.import_module(f'bench.{page.replace("-", "_")}').main(argv, prog=f'python -m bench {page}')


if __name__ == '__main__':
    main()
