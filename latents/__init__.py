"""Latents in W: projection of images, files of latents, detection of generated images, alignment of faces, films."""
