"""Working with the latent space W: projection, detection of generated images, and files of latents."""
