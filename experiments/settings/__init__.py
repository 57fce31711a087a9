"""The settings of a training run: fields, presets, validation and command lines."""
