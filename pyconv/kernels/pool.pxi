# Windows: what max and average pooling have in common. What lies outside the image is left out,
# never read.

cdef struct Window:  # one pooling problem; (h, w) pairs as in geometry.PoolGeometry
    Py_ssize_t N, H, W, C, OH, OW, KH, KW
    Py_ssize_t stride_h, stride_w, dilation_h, dilation_w, top, left
    Py_ssize_t padded_h, padded_w  # image and padding together; to count elements
    bint include_pad
    bint streams    # too large for the caches: results stream past,
    bint direct     # from the registers, if they are whole lines; else from a row in the workspace


cdef Window window_of(tuple x, tuple y, tuple kernel, tuple stride, tuple dilation, tuple pads,
                      bint include_pad):
    cdef Window g
    g.N, g.H, g.W, g.C = x
    g.OH, g.OW = y[1:3]
    g.KH, g.KW = kernel
    g.stride_h, g.stride_w = stride
    g.dilation_h, g.dilation_w = dilation
    (g.top, bottom), (g.left, right) = pads
    g.padded_h, g.padded_w = g.H + g.top + bottom, g.W + g.left + right
    g.include_pad = include_pad
    g.streams = g.direct = False
    return g


cdef inline bint is_large(const Window* g, Py_ssize_t arrays) noexcept nogil:
    """Whether x, and `arrays` like y, are more than the caches hold."""
    cdef Py_ssize_t pixels = g.N * (g.H * g.W + arrays * g.OH * g.OW)
    return pixels * g.C * <Py_ssize_t> sizeof(real) > STREAM_BYTES


cdef inline Py_ssize_t first_inside(Py_ssize_t start, Py_ssize_t dilation) noexcept nogil:
    """The first k with start + k * dilation >= 0."""
    return 0 if start >= 0 else (-start + dilation - 1) // dilation


cdef inline Py_ssize_t end_inside(Py_ssize_t start, Py_ssize_t dilation, Py_ssize_t K,
                                  Py_ssize_t size) noexcept nogil:
    """One past the last k < K with start + k * dilation < size."""
    if start + (K - 1) * dilation < size:  # most windows: no division
        return K
    return max(0, min(K, (size - 1 - start + dilation) // dilation)) if start < size else 0


cdef inline Py_ssize_t count_inside(Py_ssize_t start, Py_ssize_t dilation, Py_ssize_t K,
                                    Py_ssize_t before, Py_ssize_t size, Py_ssize_t padded,
                                    bint include_pad) noexcept nogil:
    """Elements of one axis of a window that average pooling divides by."""
    if include_pad:
        return end_inside(start + before, dilation, K, padded)
    return end_inside(start, dilation, K, size) - first_inside(start, dilation)


cdef struct Span:  # the part of a row of windows, or of a column, that lies inside the image
    Py_ssize_t start, count    # its first pixel, and how many: each `dilation` behind the last


cdef inline Span span_of(Py_ssize_t window, Py_ssize_t stride, Py_ssize_t before,
                         Py_ssize_t dilation, Py_ssize_t K, Py_ssize_t size) noexcept nogil:
    cdef Span span
    cdef Py_ssize_t start = window * stride - before
    cdef Py_ssize_t first = first_inside(start, dilation)
    span.start = start + first * dilation
    span.count = end_inside(start, dilation, K, size) - first
    return span


cdef inline Span rows_of(const Window* g, Py_ssize_t oh) noexcept nogil:
    return span_of(oh, g.stride_h, g.top, g.dilation_h, g.KH, g.H)


cdef inline Span columns_of(const Window* g, Py_ssize_t ow) noexcept nogil:
    return span_of(ow, g.stride_w, g.left, g.dilation_w, g.KW, g.W)


cdef inline bint in_one_pass(const Window* g) noexcept nogil:
    """Whether to visit each window's KH x KW pixels, with vectors along C, and not rows, then columns.

    Larger windows overlap more, or take more rows at a time than the first cache and its prefetch
    keep up with.
    """
    return g.C >= VL and g.KH * g.KW <= 9
