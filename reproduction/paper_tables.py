"""The figures of the paper's tables.

Bergmann et al., "Uninformed Students", CVPR 2020 (Tables 1 to 3), and the supplement of its arXiv version,
arXiv:1911.02357 (Tables 6 and 7). The figures are as printed, with these oddities:

- Table 1 prints for *zipper* the figures of *carpet* for 1-NN, OC-SVM and K-Means, and its means agree with that. Its
  means are cut off after three decimals. For AnoGAN it prints 0.443, but the mean of the rows is 0.447.
- The mean that Table 3 prints for p = 33 is 0.900, but that of its rows is 0.905.
- The text of the supplement that Tables 6 and 7 were read from lacks the last two classes of our method. They are
  missing here, so that its other figures cannot be checked against the means. The means, and the order of the loss
  weights, are those of Table 2.
"""

import io

import pandas as pd

__all__ = ["MEAN", "PRINTED_MEANS", "TABLE_1", "TABLE_3", "TABLE_6", "TABLE_7"]

MEAN = "mean"
"""Name of the row of means."""


def _read(text: str) -> pd.DataFrame:
    """Read a table of names and numbers; a minus stands for a missing number."""
    return pd.read_csv(io.StringIO(text), sep=r"\s+", index_col=0, na_values="-").rename(columns=str)


_TABLE_1 = _read("""
category   ours  nearest_neighbour one_class_svm k_means autoencoder variational_autoencoder ssim_autoencoder anogan cnn_feature_dictionary
carpet     0.695 0.512 0.355 0.253 0.456 0.501 0.647 0.204 0.469
grid       0.819 0.228 0.125 0.107 0.582 0.224 0.849 0.226 0.183
leather    0.819 0.446 0.306 0.308 0.819 0.635 0.561 0.378 0.641
tile       0.912 0.822 0.722 0.779 0.897 0.870 0.175 0.177 0.797
wood       0.725 0.502 0.336 0.411 0.727 0.628 0.605 0.386 0.621
bottle     0.918 0.898 0.850 0.495 0.910 0.897 0.834 0.620 0.742
cable      0.865 0.806 0.431 0.513 0.825 0.654 0.478 0.383 0.558
capsule    0.916 0.631 0.554 0.387 0.862 0.526 0.860 0.306 0.306
hazelnut   0.937 0.861 0.616 0.698 0.917 0.878 0.916 0.698 0.844
metal_nut  0.895 0.705 0.319 0.351 0.830 0.576 0.603 0.320 0.358
pill       0.935 0.725 0.544 0.514 0.893 0.769 0.830 0.776 0.460
screw      0.928 0.604 0.644 0.550 0.754 0.559 0.887 0.466 0.277
toothbrush 0.863 0.675 0.538 0.337 0.822 0.693 0.784 0.749 0.151
transistor 0.701 0.680 0.496 0.399 0.728 0.626 0.725 0.549 0.628
zipper     0.933 0.512 0.355 0.253 0.839 0.549 0.665 0.467 0.703
mean       0.857 0.640 0.479 0.423 0.790 0.639 0.694 0.443 0.515
""")  # noqa: E501

_TABLE_3 = _read("""
category   17    33    65    multi-scale
carpet     0.795 0.893 0.695 0.879
grid       0.920 0.949 0.819 0.952
leather    0.935 0.956 0.819 0.945
tile       0.936 0.950 0.912 0.946
wood       0.943 0.929 0.725 0.911
bottle     0.814 0.890 0.918 0.931
cable      0.671 0.764 0.865 0.818
capsule    0.935 0.963 0.916 0.968
hazelnut   0.971 0.965 0.937 0.965
metal_nut  0.891 0.928 0.895 0.942
pill       0.931 0.959 0.935 0.961
screw      0.915 0.937 0.928 0.942
toothbrush 0.946 0.944 0.863 0.933
transistor 0.540 0.611 0.701 0.666
zipper     0.848 0.942 0.933 0.951
mean       0.866 0.900 0.857 0.914
""")

# As printed, with a row for each method; k, m and c are the weights of the teacher's losses.
_TABLE_6 = _read("""
method                  0     1     2     3     4     5     6     7     8     9     mean
ocgan                   0.998 0.999 0.942 0.963 0.975 0.980 0.991 0.981 0.939 0.981 0.9750
nearest_neighbour       0.989 0.998 0.962 0.970 0.980 0.955 0.979 0.981 0.968 0.971 0.9753
k_means                 0.973 0.995 0.898 0.948 0.960 0.920 0.948 0.948 0.940 0.927 0.9457
one_class_svm           0.980 0.998 0.887 0.944 0.964 0.909 0.949 0.957 0.935 0.940 0.9463
autoencoder             0.992 0.999 0.967 0.980 0.988 0.970 0.988 0.987 0.978 0.983 0.9832
variational_autoencoder 0.983 0.998 0.915 0.941 0.969 0.925 0.964 0.940 0.955 0.945 0.9535
ours-k1-m0-c1           0.999 0.999 0.990 0.993 0.992 0.993 0.997 0.995 -     -     0.9935
ours-k1-m1-c1           0.999 0.999 0.988 0.992 0.988 0.993 0.997 0.995 -     -     0.9926
ours-k0-m1-c1           0.999 0.999 0.992 0.992 0.988 0.993 0.997 0.995 -     -     0.9935
ours-k1-m0-c0           0.999 0.999 0.989 0.990 0.990 0.997 0.993 0.981 -     -     0.9917
""").T

_TABLE_7 = _read("""
method                  airplane automobile bird cat deer dog frog horse ship truck mean
ocgan                   0.757 0.531 0.640 0.620 0.723 0.620 0.723 0.575 0.820 0.554 0.6566
nearest_neighbour       0.792 0.860 0.746 0.729 0.815 0.797 0.876 0.836 0.856 0.882 0.8189
k_means                 0.673 0.822 0.665 0.676 0.742 0.746 0.828 0.780 0.817 0.843 0.7592
one_class_svm           0.651 0.785 0.618 0.679 0.733 0.730 0.797 0.760 0.799 0.836 0.7388
autoencoder             0.747 0.862 0.690 0.698 0.788 0.759 0.849 0.824 0.812 0.869 0.7898
variational_autoencoder 0.705 0.819 0.605 0.700 0.734 0.731 0.797 0.751 0.801 0.859 0.7502
ours-k1-m0-c1           0.789 0.849 0.734 0.748 0.851 0.793 0.892 0.830 -     -     0.8196
ours-k1-m1-c1           0.784 0.836 0.706 0.742 0.826 0.768 0.870 0.815 -     -     0.8035
ours-k0-m1-c1           0.804 0.855 0.706 0.709 0.798 0.738 0.860 0.797 -     -     0.7940
ours-k1-m0-c0           0.766 0.817 0.715 0.736 0.855 0.763 0.885 0.819 -     -     0.8021
""").T

TABLE_1 = _TABLE_1.drop(index=MEAN)
"""AUPRO up to a false positive rate of 0.3 on MVTec AD: a row for each category, a column for each method at p = 65."""

TABLE_3 = _TABLE_3.drop(index=MEAN)
"""AUPRO up to a false positive rate of 0.3 of our method on MVTec AD: a column for each p, and all scales together."""

TABLE_6 = _TABLE_6.drop(index=MEAN)
"""AUROC of images on MNIST: a row for each digit, a column for each method."""

TABLE_7 = _TABLE_7.drop(index=MEAN)
"""AUROC of images on CIFAR-10: a row for each class, a column for each method."""

PRINTED_MEANS = {
    "Table 1": _TABLE_1.loc[MEAN],
    "Table 3": _TABLE_3.loc[MEAN],
    "Table 6": _TABLE_6.loc[MEAN],
    "Table 7": _TABLE_7.loc[MEAN],
}
"""Means that the tables print, by column. Those of Tables 6 and 7 make up Table 2."""
