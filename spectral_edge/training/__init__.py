"""Training of enhancement networks: mixtures on the fly, losses, the loop, evaluation."""
