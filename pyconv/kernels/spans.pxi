# Which outputs tiles take together: spans of columns, or a pixel of several images.
#
# Spans are columns of outputs that have the same taps inside the image, where skipping the others pays.
#
# In dx of filters that are large beside dy, and at the edges of small images, most taps would add zeros.
# Rows of taps are skipped everywhere; columns only where outputs so cut still fill tiles: a span of
# fewer columns than a tile has pixels is summed by tiles of pixels below each other. Images with few
# outputs share tiles: the same output of each has the same taps, and takes the same weights.

cdef enum:
    FEW_OUTPUTS = 36    # of an image: its own pixels fill tiles badly


cdef struct Columns:
    # Columns of a phase that have the same taps: those inside the image.
    Py_ssize_t first, last
    Py_ssize_t first_run, runs, length  # runs of a row of taps; each of `length` numbers
    bint upright                        # so narrow that tiles are columns


cdef Py_ssize_t neighbours(list columns):
    """How many columns of taps make a run: neighbours, as many in each."""
    cdef Py_ssize_t i, count = 1
    while count < len(columns) and columns[count] == columns[count - 1] + 1:
        count += 1
    if len(columns) % count or any([(columns[i] == columns[i - 1] + 1) != bool(i % count)
                                    for i in range(1, len(columns))]):
        return 1
    return count


cdef double share_inside(list taps, Py_ssize_t outputs, Py_ssize_t step, Py_ssize_t size) except -1:
    """The share of outputs' taps along an axis that lie inside the image: others are left out."""
    cdef Py_ssize_t tap, inside = 0
    for tap in taps:
        inside += max(0, min(outputs, (size - 1 - tap) // step + 1) - max(0, -(tap // step)))
    return inside / <double> max(1, outputs * len(taps))


cdef list cut_columns(list taps, Py_ssize_t columns, Py_ssize_t step, Py_ssize_t W, Py_ssize_t rows,
                      double share, bint alone=False):
    """Spans of output columns with the same taps inside the image, if it pays to cut at all.

    A list of (first, last, first tap, last tap, upright), each last one excluded. Cycles are counted
    for tiles of pixels side by side or, upright, below each other; less than 4 take as long as 4.
    Side by side, only a `share` of the rows of taps is summed: those inside the image. Outputs whose
    tiles are `alone`, since their pixels are those of other images, are cut at no cost.
    """
    cdef Py_ssize_t first, last, a, b
    cdef double cost = 0, below, beside
    edges = {0, columns}
    for tap in taps:
        edges |= {-(tap // step), -((tap - W) // step)}
    cuts = sorted([min(max(0, edge), columns) for edge in edges])
    spans = []
    for first, last in zip(cuts, cuts[1:]):
        if first < last:
            inside = [i for i, tap in enumerate(taps) if 0 <= first * step + tap < W]
            a, b = (inside[0], inside[0] + len(inside)) if inside else (0, 0)
            below, beside = (last - first) * max(4, rows), share * rows * max(4, last - first)
            spans.append((first, last, a, b, below < beside and not alone))
            cost += min(below, beside) * (b - a + 1)
    return spans if alone or cost < 0.8 * share * rows * max(4, columns) * (len(taps) + 1) else []


cdef Py_ssize_t images_together(Py_ssize_t N, Py_ssize_t outputs, Py_ssize_t size, Py_ssize_t blocks):
    """How many of N images, of so many `outputs` and numbers that are read, share a tile and an item."""
    cdef Py_ssize_t most
    for most in (TILE_1, 8, 6):  # fewer do not hide the latency of their sums
        if (N >= TILE_1 and outputs <= FEW_OUTPUTS and (N + most - 1) // most * blocks >= FEW_ITEMS
                and most * size * <Py_ssize_t> sizeof(real) <= 2 * BAND_BYTES):
            return even_part(N, most)
    return 1
