"""From a model over clips to a proven one-hop program.

::

    trace    the model's ``forward`` as an ATen graph with symbolic batch and frame count
    fold     batch normalisation folded into the convolutions before it
    rules    one function per op: how it looks for one hop, which frames it must remember
    rewrite  walks the clip graph, applies the rules, collects states and delays
    verify   feeds random clips hop by hop and compares with the model
"""
