"""Table of the metrics by name, and the same metrics at other numbers of images. Needs no TensorFlow."""

from __future__ import annotations

import difflib
import re

from dnnlib.cli import UserError
from dnnlib.util import EasyDict

# ---- The table: the class of each metric and its arguments ----

def _ppl(name, space, sampling, crop):
    return dict(name=name, func_name='metrics.perceptual_path_length.PPL', num_samples=50000, epsilon=1e-4,
                space=space, sampling=sampling, crop=crop, minibatch_per_gpu=4,
                Gs_overrides=dict(dtype='float32', mapping_dtype='float32'))


metric_defaults = EasyDict((args['name'], EasyDict(args)) for args in [
    dict(name='fid50k', func_name='metrics.frechet_inception_distance.FID', num_images=50000, minibatch_per_gpu=8),
    dict(name='is50k', func_name='metrics.inception_score.IS', num_images=50000, num_splits=10, minibatch_per_gpu=8),
    _ppl('ppl_zfull', space='z', sampling='full', crop=True),
    _ppl('ppl_wfull', space='w', sampling='full', crop=True),
    _ppl('ppl_zend', space='z', sampling='end', crop=True),
    _ppl('ppl_wend', space='w', sampling='end', crop=True),
    _ppl('ppl2_wend', space='w', sampling='end', crop=False),
    dict(name='ls', func_name='metrics.linear_separability.LS', num_samples=200000, num_keep=100000,
         attrib_indices=list(range(40)), minibatch_per_gpu=4),
    dict(name='pr50k3', func_name='metrics.precision_recall.PR', num_images=50000, nhood_size=3, minibatch_per_gpu=8,
         row_batch_size=10000, col_batch_size=10000),
    dict(name='kid50k', func_name='metrics.kernel_inception_distance.KID', num_images=50000, num_subsets=100,
         max_subset_size=1000, minibatch_per_gpu=8),
    dict(name='fd_efficientnet50k', func_name='metrics.frechet_inception_distance.FD',
         feature_net='efficientnet_lite0', num_images=50000, minibatch_per_gpu=8),
])

# ---- The same metrics at other numbers of images ----

_THOUSANDS = r'(?:0|[1-9]\d{0,14})(?:\.\d{1,9})?k'  # 5k, 0.5k
_COUNT = rf'(?P<count>[1-9]\d{{0,14}}|{_THOUSANDS})'  # 500, 5k, 0.5k
_PATTERNS = [  # Regular expression of a name, and the entry of the table that it takes its other settings from.
    (rf'fid{_COUNT}', 'fid50k'),
    (rf'is{_COUNT}', 'is50k'),
    (rf'kid{_COUNT}', 'kid50k'),
    (rf'fd_efficientnet{_COUNT}', 'fd_efficientnet50k'),
    (rf'pr(?P<count>{_THOUSANDS})(?P<nhood>[1-9]\d{{0,14}})(?P<exact>_exact)?', 'pr50k3'),
    *((name + _COUNT, name) for name in ('ppl_zfull', 'ppl_wfull', 'ppl_zend', 'ppl_wend', 'ppl2_wend', 'ls')),
]
_MIN_IMAGES = 2           # A covariance needs two images, and so does a pair.
_MAX_IMAGES = 10_000_000  # Hundreds of times what the papers use: a larger number is a slip, and would take weeks.


def metric_args(name: str) -> EasyDict:
    """Arguments of a metric: an entry of the table, or the same at another number of images.

    Args:
        name: 'fid50k', 'fid5k', 'fd_efficientnet500', 'kid0.5k', 'pr10k3' (10,000 images, 3 neighbours),
              'pr10k3_exact' (in float32), 'ppl_wend5k', 'ls20k' (of which half are kept), ...

    Returns:
        Arguments for MetricGroup, a copy.

    Raises:
        UserError: There is no such metric, it needs more images, or the number is beyond all sense.
    """
    if name in metric_defaults:
        return EasyDict(metric_defaults[name])
    for pattern, base in _PATTERNS:
        match = re.fullmatch(pattern, name)
        if match:
            return _with_count(EasyDict(metric_defaults[base], name=name), match.groupdict())
    near = difflib.get_close_matches(name, metric_defaults, n=1)
    hint = f'Did you mean {near[0]}? ' if near else ''
    raise UserError(f'--metrics: there is no {name!r}',
                    f'{hint}Valid: {", ".join(metric_defaults)}, and these at other numbers: '
                    'fid5k, pr10k3, ppl_wend5k, ls20k, ...')


def _with_count(args, parts):
    """The arguments changed to the number of images in a name, given as the groups of its regular expression."""
    text = parts['count']
    count = round(float(text[:-1]) * 1000) if text.endswith('k') else int(text)
    if count > _MAX_IMAGES:
        raise UserError(f'--metrics: {args.name} would take {count} images, which is too many',
                        f'It takes at most {_MAX_IMAGES}.')
    args['num_images' if 'num_images' in args else 'num_samples'] = count
    min_count = _MIN_IMAGES
    if 'num_keep' in args:
        args.num_keep = count // 2
        min_count = 4
    if 'num_splits' in args:
        min_count = args.num_splits
    if 'nhood_size' in args:
        args.nhood_size = int(parts['nhood'])
        min_count = args.nhood_size + 1
        if parts['exact']:
            args.exact = True
    if count < min_count:
        raise UserError(f'--metrics: {args.name} would take {count} images, which is too few',
                        f'It needs {min_count} or more.')
    return args
