"""The command ``report``: one HTML file that shows what a trained model decides on the test images of its data."""
