"""Labelled patches cut from annotated slides, as PatchCamelyon has them.

``cut`` tells the story: ``slide_list`` says which slides, ``planning`` where patches may lie and
what ``label_rule`` says of each, ``patient_split`` who is trained on, ``sampling`` which are taken;
``shard`` reads those of one slide, and ``outputs`` writes the data set.
"""
