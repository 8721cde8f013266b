"""The command ``report``: one HTML file that shows what a trained model decides on the test images of its data.

    anomalib-students report --checkpoint model.ckpt --data MVTec --data.root datasets/MVTecAD --data.category pill

The file needs no other file and no network, and can be read on a phone. From top to bottom it shows

1. the decision: the threshold, how it was set, and the false alarms, recall and precision that it has here;
2. a histogram of the scores, the ROC curve and the PRO curve;
3. a table by type of defect, which is the name of an image's folder;
4. the images with their ground truth and their anomaly maps: false alarms first, then misses, then all others, to be
   sorted and filtered.

What cannot be measured is left out, and the file says why: without defective test images there are no curves, without
masks no PRO curve, in the mode ``"patch"`` no maps, and without a threshold no decisions.

=============== ==================================================================================================
``checkpoint``  checkpoint of :class:`~anomalib_students.UninformedStudents`
``data``        data module of anomalib, with its arguments, whose test images are shown
``output``      HTML file to write, by default ``report.html``
``n_images``    most images that are shown; the numbers are over all
``device``      device to compute on, such as ``cpu`` or ``cuda:1``; by default the accelerator, if there is one
=============== ==================================================================================================

In Python, :func:`anomalib_students.report.write.write_report` writes it for a model in memory.
"""
