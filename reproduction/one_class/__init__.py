"""One-class classification (Section 4.1): one class of MNIST or CIFAR-10 is normal, all others are anomalies."""
