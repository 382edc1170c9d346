"""What the stage `train` is made of, one idea a module; tasks/train.py is its door.

`rows` what is learned · `batching` in which order and passes · `base` the model and whether it can be trained · `objectives` the losses ·
`backends` one process or many · `checkpoints` · `watch` what is seen and when to stop · `loop` the training itself · `outputs` what is kept
"""
