"""The order of imports: no circles, and every arrow points from what is built later to what is built earlier."""

import ast
import graphlib

from tests import ROOT

# A module may import modules of its own level or of an earlier one. Scripts that are not listed come last.
LEVELS = ('dnnlib', 'custom_ops', 'training', 'metrics', 'pretrained_networks projector', 'latents', 'export explorer')
SCRIPTS = len(LEVELS)


def own_modules():
    """Dict of dotted name -> file, of all code that is shipped."""
    files = [*ROOT.glob('*.py')]
    for package in ('dnnlib', 'custom_ops', 'training', 'metrics', 'latents', 'export', 'explorer'):
        files += (ROOT / package).rglob('*.py')
    return {'.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): file for file in files}


def imports_of(file, modules):
    """Names in `modules` that a file imports, anywhere in it: an import inside a function counts too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f'{node.module}.{alias.name}'
                found.add(full if full in modules else node.module)
    return found & set(modules)


def level(module):
    top = module.split('.')[0]
    return next((i for i, names in enumerate(LEVELS) if top in names.split()), SCRIPTS)


def graph():
    modules = own_modules()
    return {name: imports_of(file, modules) - {name} for name, file in modules.items()}


def test_there_are_no_circles():
    assert len(graph()) > 60
    list(graphlib.TopologicalSorter(graph()).static_order())  # CycleError names the modules of a circle.


def test_imports_follow_the_order_of_the_levels():
    against = {
        f'{name} -> {other}' for name, others in graph().items() for other in others if level(other) > level(name)
    }
    assert not against


def test_imports_inside_functions_and_of_submodules_are_seen(tmp_path):
    file = tmp_path / 'module.py'
    file.write_text(
        'import dnnlib.cli\ndef f():\n    from training import misc\n    from metrics.metric_base import MetricGroup\n'
    )
    modules = dict.fromkeys(['dnnlib', 'dnnlib.cli', 'training', 'training.misc', 'metrics.metric_base', 'latents'])
    assert imports_of(file, modules) == {'dnnlib.cli', 'training.misc', 'metrics.metric_base'}
    assert [level(name) for name in ('dnnlib.tflib.random', 'projector', 'run_training')] == [0, 4, SCRIPTS]
