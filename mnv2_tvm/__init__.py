"""MobileNetV2 compiled for small machines with Apache TVM."""

__version__ = "0.1.0"
