"""Autoencoder of images that is trained and scored with structural similarity (Bergmann et al., VISAPP 2019)."""
