"""What leaves PyTorch: ONNX and OpenVINO models that compute what the engine computes, and quantised ones."""
