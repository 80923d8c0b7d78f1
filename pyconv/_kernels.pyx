"""Every loop over values. One source, compiled for each instruction set and dtype (see setup.py).

Three bands. A *tile* computes one block of outputs in registers and knows no threads. A *driver*
hands fixed work items to threads, one call for each. An *entry* (a `def` with
memoryviews, or a method of a plan) holds no loop. Arguments are checked by `functional`.

The same bits for any number of threads: work items depend on shapes alone, each output has one
owner, and sums over the batch are partial sums over a fixed partition, added in a fixed order.

Classes whose methods are called for each tile are `final`: without it, every call goes through a table.
"""

include "kernels/vec.pxi"          # the vector type
include "kernels/memory.pxi"       # aligned workspaces
include "kernels/items.pxi"        # work items: their size, and their times for benchmarks
include "kernels/watch.pxi"        # whether weights have changed
include "kernels/tile.pxi"         # register tiles of the convolution
include "kernels/wide.pxi"         # the same for few output channels, vectors along pixels
include "kernels/cycle.pxi"        # and with lanes that share input channels
include "kernels/packing.pxi"      # padded inputs, packed weights, drivers by them
include "kernels/spans.pxi"        # which outputs tiles take together
include "kernels/gather.pxi"       # y and dx: sums over taps
include "kernels/pointwise.pxi"    # y and dx of 1x1 filters of few channels
include "kernels/scatter.pxi"      # dx of few channels: products of all taps, added where they go
include "kernels/reduce.pxi"       # dw and db: sums over pixels
include "kernels/wide_reduce.pxi"  # the same for few output channels
include "kernels/winograd_tile.pxi"  # tiles of Winograd: transforms, products
include "kernels/winograd_grid.pxi"  # where these are
include "kernels/winograd.pxi"     # y and dx of 3x3 filters with fewer products
include "kernels/winograd_filter.pxi"  # dw of them
include "kernels/line_tile.pxi"    # the same along rows alone, for other filters: its tiles
include "kernels/line.pxi"         # and y and dx by them
include "kernels/winograd_row.pxi"  # dw of others, along the rows only
include "kernels/line_wide_tile.pxi"  # transforms and tiles of Winograd along the rows
include "kernels/line_wide_split.pxi"  # rows as planes
include "kernels/line_wide.pxi"    # y and dx of few output channels: Winograd along the rows
include "kernels/line_wide_filter.pxi"  # and dw
include "kernels/depthwise.pxi"    # depthwise filters: what their drivers share
include "kernels/depthwise_patch.pxi"  # the tile of y and dx for common ones
include "kernels/depthwise_flat.pxi"  # for few channels
include "kernels/depthwise_tile.pxi"  # and for others
include "kernels/depthwise_gather.pxi"  # y and dx of them
include "kernels/depthwise_filter.pxi"  # dw and db of them
include "kernels/dense.pxi"        # dense layers of very few rows
include "kernels/choice.pxi"       # estimates of what each algorithm takes
include "kernels/conv.pxi"         # the plan of one convolution
include "kernels/pool.pxi"         # the windows of pooling
include "kernels/pool_max.pxi"     # max pooling
include "kernels/pool_max_back.pxi"  # its gradient
include "kernels/pool_average.pxi"  # average pooling
include "kernels/winners.pxi"      # gradients behind max pooling: sums over the winners
include "kernels/conv_pool.pxi"    # convolution, ReLU and max pooling as one
include "kernels/batch_norm_tile.pxi"  # sums and rows of batch normalization
include "kernels/batch_norm.pxi"   # batch normalization, ReLU and a sum as one
include "kernels/elementwise.pxi"  # ReLU, optimizers
include "kernels/examples.pxi"     # minibatches
include "kernels/exponential.pxi"  # exp, expm1 and log1p of vectors
include "kernels/activations.pxi"  # other activations, dropout
include "kernels/losses.pxi"       # softmax, and the losses with their gradients
include "kernels/program.pxi"      # operations of a network, bound to memory
include "kernels/probe.pxi"        # the peak of multiply-adds, for benchmarks
