"""From step programs to files: TFLite and ONNX writers, clean-up passes, bundles.

Converters change the representation and never the meaning: scales are copied bit for bit, and every
bundle carries a golden rollout with which an engine can be checked.
"""
