"""docs/notebooks.md: each name that it says is there is there, and each that it says is not there is not."""

import re

import numpy as np
import PIL.Image
import pytest

from dnnlib.tflib import Network
from dnnlib.util import get_obj_by_name
from tests import ROOT
from tests.training.test_misc import small_networks

STATES = {'works': True, 'differs': True, 'not there': False}


def rows():
    """(name, state) of each name in the tables."""
    text = (ROOT / 'docs' / 'notebooks.md').read_text(encoding='utf-8')
    for first, state in re.findall(r'^\| (`[^|]*`) \| ([a-z ]+) \|', text, re.MULTILINE):
        for name in re.findall(r'`([^`]+)`', first):
            yield name, state


def exists(name):
    try:
        get_obj_by_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_names_are_there_or_not_as_the_table_says():
    table = list(rows())
    names = [name for name, _ in table]
    assert len(names) > 150 and len(set(names)) == len(names)
    assert {state for _, state in table} == set(STATES)
    assert not [name for name, state in table if exists(name) != STATES[state]]


@pytest.mark.parametrize('package', ['dnnlib', 'dnnlib.tflib'])
def test_the_names_that_are_offered_are_in_the_table(package):
    own = {'GivenNoise', 'KeyedRandom', 'Random', 'autosummary'}  # Those that the original does not have; a module.
    offered = {f'{package}.{name}' for name in get_obj_by_name(f'{package}.__all__') if name not in own}
    assert offered and offered <= {name for name, state in rows() if STATES[state]}


def test_what_a_network_has_is_more_than_a_name():
    """Attributes that the table lists have a value on a network."""
    Gs = small_networks()[2]
    for name, state in rows():
        if name.startswith('dnnlib.tflib.Network.') and STATES[state]:
            assert getattr(Gs, name.rsplit('.', 1)[1]) is not None, name
    assert isinstance(Gs, Network)


def test_what_fails_through_other_libraries_does():
    with pytest.raises(TypeError, match='arrays to stack must be passed as a "sequence" type'):
        np.stack(x for x in [np.zeros(1)])
    major = int(PIL.__version__.split('.')[0])
    assert hasattr(PIL.Image, 'LANCZOS') and hasattr(PIL.Image, 'ANTIALIAS') == (major < 10)
    assert not hasattr(np, 'float')
