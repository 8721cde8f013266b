"""One-class classification of MNIST and CIFAR-10 (Section 4.1)."""
