# Which algorithm computes a convolution: that of which the estimate is least, from the shape alone.
#
# Estimates are cycles of a call on one thread, on vectors of 16 and with two multiply-adds a cycle.
# Their terms are what the kernels do: products, loads of weights for each register tile, transforms,
# sums that are written; and what is read from beyond L2 (FAR_BYTES). The numbers before them lie between
# those that fit the measured times of random shapes on two machines, which they meet within 10 to 20 %.
# Only their ratios matter: what costs the same everywhere is left out.
#
# Everything here is in Python's numbers: in C's, 1 / 2 is 0.

from libc.math cimport INFINITY

cdef enum:
    FAR_BYTES = 1_000_000    # weights that a thread reads again and again: more come from beyond L2
    LEAST_WORK = 100_000     # multiply-adds: of fewer, calls take the time
    LEAST_CHANNELS = 6       # of Winograd in two dimensions: fewer never paid
    LEAST_LINE = 5           # output channels of `Line`, likewise
    MOST_FILTER = 12         # and at most, of `LineWideFilter`


cdef double gather_cycles(tuple rows_of, bint back) except -1:
    """y or dx by `Gather`; for `ConvPlan.along_rows`."""
    source, target, groups, step, stride, phases, _ = rows_of
    C, K = source[3] // groups, target[3] // groups
    rows, columns = (target[1] + stride[0] - 1) // stride[0], (target[2] + stride[1] - 1) // stride[1]
    heights = [h for _, taps in phases for h, _, _ in taps]
    widths = [w for _, taps in phases for _, w, _ in taps]
    inside = (min(heights) >= 0 and min(widths) >= 0
              and (rows - 1) * step[0] + max(heights) < source[1])
    copy = 0 if inside else copy_cycles(C, columns, step)
    share = share_inside(heights, rows, step[0], source[1])
    row = min(share * (cycle_cycles(K, C, groups, columns, phases) + copy),
              other_cycles(K, C, columns, step, phases, inside, share,
                           share_summed(columns, step[1], phases, source[2], rows, share)))
    size = (((rows - 1) * step[0] + max(heights) - min(heights) + 1)
            * ((columns - 1) * step[1] + max(widths) - min(widths) + 1) * source[3])
    if (not back and K > CYCLE_CHANNELS
            and images_together(source[0], rows * columns, size, groups * ((K + 31) // 32)) > 1):
        row = min(row, images_cycles(K, C, columns, len(heights) * share * share_inside(
            widths, columns, step[1], source[2])) + copy_cycles(C, columns, step))
    weights = len(heights) * C * K
    return groups * (source[0] * rows * row
                     + weights * (6 if K <= CYCLE_CHANNELS else 1.35 if back else 0.36))


cdef double point_cycles(pixels, C, K) except -1:
    """y or dx by `Pointwise`; as `gather_cycles` of such shapes, nearly twice what AVX-512 takes, and
    more, since AVX2 has three instructions for a shuffle.
    """
    return pixels * (K * (C * (3 * point_sources(C, K, 16) + 1.6) + 8) / 16 + 0.43 * (C + K))


cdef double share_summed(columns, step, list phases, W, rows, double share) except -1:
    """The share of taps that are summed: of their rows, a `share` lies inside the image; and where
    columns are cut (spans.pxi), taps outside it are left out along one axis or both.
    """
    summed = total = 0
    for _, taps in phases:
        widths = sorted({w for _, w, _ in taps})
        total += columns * len(widths)
        spans = cut_columns(widths, columns, step, W, rows, share) or [
            (0, columns, 0, len(widths), False)]
        summed += sum([(last - first) * (b - a) * (1 if upright else share)
                       for first, last, a, b, upright in spans])
    return summed / max(1, total)


cdef double copy_cycles(C, columns, step) except -1:
    """To copy the input that a row of outputs adds, with its padding."""
    return 0.72 * step[0] * step[1] * columns * C


cdef double other_cycles(K, C, columns, step, list phases, bint inside, double share,
                         double summed) except -1:
    """A row of outputs of each phase, but by cycle.pxi.

    `inside`: no tap leaves the image. Of the taps, `summed` are left, or a `share` by whole rows.
    """
    taps = sum([len(taps) for _, taps in phases])
    across, outputs = (columns + 15) // 16, columns * len(phases)
    if 3 * K * across <= 2 * columns and K <= 8 <= columns:  # vectors along the pixels: wide.pxi
        return (across * taps * C * share * (0.7 * K + 2.2) + outputs * (K + 2.5)
                + step[0] * step[1] * C * ((1.1 if step[1] == 1 else 1.5) * columns + 50))
    far = taps * C * 128 > FAR_BYTES * len(phases)
    return (K + 15) // 16 * (
        taps * C * summed * (0.63 * columns + (2 if far else 1.25) * ((columns + 11) // 12))
        + 9.5 * outputs
    ) + (0 if inside else copy_cycles(C, columns, step))


cdef double images_cycles(K, C, columns, double taps) except -1:
    """The same of images with few outputs, by tiles of several: each output sums its own `taps`."""
    return (K + 15) // 16 * columns * (
        taps * C * (0.63 + (2 if taps * C * 128 > FAR_BYTES else 1.25) / TILE_1) + 9.5)


cdef double cycle_cycles(K, C, groups, columns, list phases) except -1:
    """The same by lanes that share the input channels (cycle.pxi), of input that is copied already."""
    if K > CYCLE_CHANNELS or C < 2 or not any([taps for _, taps in phases]):
        return INFINITY
    # The tiles that `cycle_rows` finds.
    size = min([((columns + size - 1) // size * (size + 2), size)
                for size in (12, 10, 8, 7, 6, 4, 2, 1) if size <= max(1, columns)])[1]
    tiles = (columns + size - 1) // size
    cycles = 0
    for _, taps in phases:
        if taps:
            # Neighbours are one run.
            length = C * len(taps) // len({h for h, _, _ in taps}) if groups == 1 else C
            parts = cycle_parts(K, length)
            runs = C * len(taps) // length
            products = runs * ((length + parts - 1) // parts)
            cycles += tiles * (size * ((0.63 if parts == 2 else 0.81) * products + 9)
                               + 1.75 * products + 6 * runs)
    return cycles


cdef grid_tiles(outputs, dilation, side):
    """Tiles of a `Grid`."""
    return (outputs[0] * tiles_along(outputs[1], dilation[0], side)
            * tiles_along(outputs[2], dilation[1], side))


cdef double winograd_cycles(source, target, dilation, groups, bint back) except -1:
    """y or dx by `Winograd`."""
    N, H, W, _ = target
    C, K = source[3] // groups, target[3] // groups
    if min(C, K) < LEAST_CHANNELS or N * H * W < LEAST_OUTPUTS:
        return INFINITY
    side, vectors = TILE, (K + 15) // 16
    tiles = grid_tiles(target, dilation, side)
    if tiles <= FEW_TILES:
        side = SMALL_TILE
        tiles = grid_tiles(target, dilation, side)
    points = (side + 2) ** 2
    filters = points * C * K * 4
    small = filters <= SHARED_BYTES
    most = 2 * BLOCK_TILES
    if small:
        most = min(BLOCK_TILES, max(12, tiles * K * groups / (ITEMS * K_CHUNK)))
    blocks = max(1, tiles / most)
    again = 1 if points * tiles * C * groups * 4 <= STAGED_BYTES else (K + K_CHUNK - 1) // K_CHUNK
    fresh = 0 if small and not back and tiles < KEPT_TILES else 1 if small else blocks
    return groups * points * (
        tiles * (vectors * (0.78 * C + 7.8) + again * ((C + 15) // 16 * 9.2 + (7.4 if C % 16 else 0)))
        + 6 * C * vectors * (fresh + (blocks if filters > FAR_BYTES else 0)))


cdef double line_cycles(tuple rows_of, bint back) except -1:
    """y or dx by `Line`, as it cuts the work."""
    source, target, groups, step, stride, phases, _ = rows_of
    N, C, K = source[0], source[3] // groups, target[3] // groups
    heights = [len({h for h, _, _ in taps}) for _, taps in phases]
    parts = line_parts(phases, step[1], C)
    if K < LEAST_LINE or parts is None:
        return INFINITY
    taps = max(2, max([len(part) for of_phase in parts for part in of_phase]))
    fresh = len({(part[0], len(part)) for of_phase in parts for part in of_phase})
    rows, columns = (target[1] + stride[0] - 1) // stride[0], (target[2] + stride[1] - 1) // stride[1]
    all_rows = [h for _, of_phase in phases for h, _, _ in of_phase]
    span_h = max(all_rows) - min(all_rows) + 1
    more = (span_h + step[0] - 1) // step[0] - 1  # rows of x beyond those of a band
    vectors, tiles, points = (K + 15) // 16, (columns + TILE - 1) // TILE, taps + TILE - 1
    work = N * rows * columns * C * target[3] * sum([len(taps) for _, taps in phases])
    most = LINE_BYTES / (fresh * points * step[0] * C * 4)
    band, across = rows, tiles
    while band > 1 and (
        band > 2 * span_h and ((band + more) * across > most or items_few(work, N, rows, band, ITEMS))
        or items_few(work, N, rows, band, FEW_ITEMS)
    ):
        band = (band + 1) // 2
    while (band + more) * across > most and across > 4:
        across = (across + 1) // 2
    while (band + more) * across > most and band > 1:
        band = (band + 1) // 2
    bands = (rows + band - 1) // band
    # What few items of channels each transform, they transform several times.
    again = max(1, min((K + 31) // 32, ITEMS / (N * bands))) if work > 2 * ITEM_WORK * N * bands else 1
    filters = C * sum([height * sum([len(part) + TILE - 1 for part in of_phase])
                       for height, of_phase in zip(heights, parts)])  # numbers of a channel
    strips = ((band * across + LINE_TILES - 1) // LINE_TILES * bands
              * ((tiles + across - 1) // across))
    far = filters * 64 * min(2, vectors) > FAR_BYTES
    whole = (tiles + 3) // 4 * 4  # in whole vectors
    transforms = (C + 3) // 4 * fresh * (whole * points * (taps + 9) / 16 + 2 * step[1] * tiles + 20)
    slower = 1.15 if taps == 2 else 1  # tiles are small beside what they load
    return groups * slower * (N * (
        vectors * (filters * (0.67 * rows * tiles + (6 if far else 1.9) * strips)
                   + 8.2 * rows * tiles * len(phases) * points)
        + 2 * bands * (band + more) * step[0] * again * transforms)
        + (5.9 if back else 2.1) * filters * vectors * taps)


cdef bint items_few(work, N, rows, band, least) except -1:
    """Whether bands are too few items for the work."""
    items = N * ((rows + band - 1) // band)
    return items < least and work > 2 * ITEM_WORK * items


cdef tuple wide_cut(tuple rows_of):
    """How `LineWide` cuts the work: (parts, points, chunk, sets, bands, vectors of quads in all bands of
    an image, those of the input); None if it cannot.
    """
    source, target, groups, step, stride, phases, _ = rows_of
    N, C, K = source[0], source[3] // groups, target[3] // groups
    parts = line_parts(phases, step[1], C)
    if (K > MOST_FILTER or parts is None
            or target[0] * target[1] * target[2] < 256 or target[2] < 6 * stride[1]):
        return None
    points = TILE - 1 + max(2, max([len(part) for of_phase in parts for part in of_phase]))
    fresh = len({part[0] for of_phase in parts for part in of_phase})
    rows, columns = (target[1] + stride[0] - 1) // stride[0], (target[2] + stride[1] - 1) // stride[1]
    all_rows = [h for _, taps in phases for h, _, _ in taps]
    all_columns = [w for _, taps in phases for _, w, _ in taps]
    span_h = max(all_rows) - min(all_rows) + 1
    pixels = TILE * step[1]
    x_row = ((columns - 1) * step[1] + max(all_columns) - min(all_columns) + pixels) // pixels
    quads = (columns + TILE - 1) // TILE
    chunk = C if C <= FEW_CHANNELS else LINE_CHUNK
    of_set = max(1, min(groups, LINE_CHUNK // max(C, K))) if chunk == C else 1
    sets = (groups + of_set - 1) // of_set
    work = N * rows * columns * C * target[3] * sum([len(taps) for _, taps in phases])
    size = step[0] * x_row * of_set * chunk * (pixels + points * fresh) * 4
    band, more = rows, (span_h + step[0] - 1) // step[0] - 1
    while band > 1 and ((band + more) * size > (1 if band >= 2 * span_h else 2) * BAND_BYTES
                        or items_few(work, N * sets, rows, band, ITEMS)):
        band = (band + 1) // 2
    bands = (rows + band - 1) // band
    vectors = bands * ((band * (quads if quads % 16 == 0 else x_row) + 15) // 16)
    transforms = bands * (band + more) * step[0] * x_row / 16 * C * (fresh * points + 2 * pixels)
    return parts, points, chunk, sets, bands, vectors, transforms


cdef double line_wide_cycles(tuple rows_of, bint back) except -1:
    """y or dx by `LineWide`."""
    source, target, groups, _, _, phases, _ = rows_of
    N, C, K = source[0], source[3] // groups, target[3] // groups
    cut = wide_cut(rows_of)
    if cut is None or K > WIDE_MOST:
        return INFINITY
    parts, points, chunk, sets, bands, vectors, transforms = cut
    chunks = (C + chunk - 1) // chunk
    runs = sum([len(of_phase) * len({h for h, _, _ in taps})
                for of_phase, (_, taps) in zip(parts, phases)])
    slower = 1.15 if points == 5 else 1  # transforms of line_tile.pxi
    return (N * groups * slower * (vectors * (points * runs * C * (0.42 * K + 1.9)
                                              + 7.5 * K * len(phases) * (points * chunks + TILE))
                                   + 8.3 * transforms)
            + groups * (20 if back else 11) * C * K * sum([len(taps) for _, taps in phases])
            + 300 * N * sets * chunks * bands)


cdef double line_wide_filter_cycles(tuple rows_of) except -1:
    """dw by `LineWideFilter`."""
    source, target, groups, _, _, phases, _ = rows_of
    N, C, K = source[0], source[3] // groups, target[3] // groups
    cut = wide_cut(rows_of)
    if cut is None or K > WIDE_MOST and groups > 1:
        return INFINITY
    parts, points, chunk, sets, bands, vectors, transforms = cut
    chunks = (C + chunk - 1) // chunk
    taps = phases[0][1]
    sums = points * len(parts[0]) * len({h for h, _, _ in taps}) * C * K * groups
    items = min(ITEMS, 1 + N * target[1] * target[2] * len(taps) * C * target[3] / ITEM_WORK)
    return (len(phases) * N * (sums * (1.07 * vectors + 7.6 * bands)
                               + 9.2 * groups * vectors * K * (points + TILE) * chunks)
            + 11 * N * groups * transforms + 5.3 * sums * max(1, items / (sets * chunks)))


cdef double filter_cycles(tuple y, tuple w, tuple stride, groups) except -1:
    """dw by `Reduce` or `WideReduce`."""
    KH, KW, C, K = w
    pixels = y[0] * y[1] * y[2]
    items = min(ITEMS, pixels * KH * KW * C * K / ITEM_WORK, max(LEAST_PARTS, pixels / PART_PIXELS))
    return (y[0] * min(wide_reduce_cycles(y, w, stride, groups),
                       groups * reduce_cycles(y, w, stride, groups)) + 0.15 * KH * KW * C * K * items)


cdef double winograd_filter_cycles(tuple x, tuple y, dilation) except -1:
    """dw by `WinogradFilter`."""
    N, H, W, K = y
    if N * H * W < LEAST_OUTPUTS:
        return INFINITY
    tiles, C, vectors = grid_tiles(y, dilation, TILE), x[3], (K + 15) // 16
    k_chunks = (K + K_CHUNK - 1) // K_CHUNK
    return POINTS * tiles * (1.15 * C * vectors + 11.6 * ((C + 15) // 16) * k_chunks
                             + 12.4 * vectors * ((C + C_CHUNK - 1) // C_CHUNK))


cdef double rows_cycles(tuple x, tuple y, tuple w, tuple stride, tuple dilation, groups) except -1:
    """dw by `RowWinogradFilter`, as it cuts the work."""
    N, H, W, K = y
    N *= min(dilation[0], H) * min(dilation[1], W)
    H, W = (H + dilation[0] - 1) // dilation[0], (W + dilation[1] - 1) // dilation[1]
    KH, KW, C, _ = w
    K //= groups
    taps = (KW + stride[1] - 1) // stride[1]
    pairs = row_pairs(taps, W)
    if K <= WIDE_CHANNELS or KH * stride[1] * C < 5 or N * H * W < LEAST_OUTPUTS:
        return INFINITY
    # Taps that a stride adds to fill its last step are products for nothing.
    if stride[1] > 2 or taps == 2 and KW < 2 * stride[1]:
        return INFINITY
    points, vectors = 2 * pairs + 2, (K + 15) // 16
    tiles = (W + points - taps) // (points - taps + 1)
    chunk, k_chunk = row_chunks(points * KH * stride[1], C, K)
    chunks, k_chunks = (C + chunk - 1) // chunk, (K + k_chunk - 1) // k_chunk
    band = max(1, min(H, ROW_BAND // tiles))
    while band > 1 and points * tiles * 4 * (
            ((band - 1) * stride[0] + KH) * stride[1] * chunk + 32 * band) > ROW_BYTES:
        band = (band + 1) // 2
    bands, run = N * ((H + band - 1) // band), KH * stride[1] * C
    items = min(ITEMS, N * H * W * KW * KH * C * K * groups / (4 * ITEM_WORK),
                max(LEAST_PARTS, N * H * W / PART_PIXELS))
    parts = max(1, items / (groups * chunks * k_chunks))
    images = min(max(1, N / parts), max(1, ROW_BAND / (H * tiles))) if band == H else 1
    return groups * points * (
        N * H * tiles * vectors * (1.2 * run + 7.9 * chunks)
        + 12.9 * bands * ((band - 1) * stride[0] + KH) * tiles * ((stride[1] * C + 15) // 16) * k_chunks
        + run * vectors * (3.5 * bands / images + 20 * parts)
        + 79 * bands / images * ((K + 31) // 32) * chunks * ((KH * stride[1] * chunk + 11) // 12))
