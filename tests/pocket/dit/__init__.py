"""Three small experts of Flux.1's class, on the pictures, the text encoder and the autoencoder of the scenes."""
