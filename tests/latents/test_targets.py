"""The names of the images to project."""

import numpy as np
import pytest

from latents.targets import Target, picture_name, with_unique_names


@pytest.mark.parametrize('title, name', [
    ('portrait.png', 'portrait'),
    ('/some/where/my photo (1).JPG', 'my_photo_1_'),
    ('photos.zip: inside/b-gray.png', 'b-gray'),
    ('a/b.zip: c.webp', 'c'),
    ('https://example.org/x/cat.png', 'cat'),
    (r'C:\pictures\dog.bmp', 'dog'),
    ('Zoë.v2.png', 'Zoë.v2'),
    ('--force.png', 'force'),
    ('...', 'image'),
    ('.png', 'png'),
    ('???.png', '_'),
    ('a\x1b[31m\n.png', 'a_31m_'),
    ('\udcff.png', '_'),
    ('no-ending', 'no-ending')])
def test_names_of_pictures_are_those_of_the_files(title, name):
    assert picture_name(title) == name


def test_long_names_leave_room_for_endings():
    assert picture_name('x' * 250 + '.png') == 'x' * 200
    name = picture_name('ä' * 120 + '.png')
    assert name == 'ä' * 100 and len((name + '-side-by-side.png.part').encode()) <= 255


def test_the_same_name_again_gets_a_number():
    names = ['portrait', 'a', 'portrait', 'Portrait', 'portrait-2', 'a', 'b']
    image = np.zeros([3, 1, 1])
    targets = list(with_unique_names(Target(name, f'source {idx}', image) for idx, name in enumerate(names)))
    assert [target.name for target in targets] == [
        'portrait', 'a', 'portrait-2', 'Portrait-3', 'portrait-2-2', 'a-2', 'b']
    assert [target.source for target in targets] == [f'source {idx}' for idx in range(len(names))]
