"""TensorFlow Datasets without TensorFlow: prepared folders are read directly."""
