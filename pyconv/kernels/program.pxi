# The compiled step: operations bound to their memory, run one after the other with no Python between.
#
# pyconv/program.py makes one of these for a network and a batch size, and says which memory each
# buffer gets. What the calls compute is what the entries of the other files compute; a step of a
# small network just costs a few of these calls instead of hundreds of lines of Python.


cdef class Buffer:
    """Memory that operations read or write: given after they are made, and exchanged at will.

    Attributes
    ----------
    array : ndarray or None
        What it was bound to.
    """
    cdef char* data
    cdef readonly object array

    def bind(self, array):
        """Use the memory of `array`, C-contiguous, from now on."""
        cdef Py_buffer view
        PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
        self.data = <char*> view.buf
        self.array = array
        PyBuffer_Release(&view)  # numpy's memory stays where it is as long as the array lives


cdef inline real* at(Buffer buffer) noexcept:
    """The numbers of a buffer; NULL if there is none."""
    return NULL if buffer is None else <real*> buffer.data


cdef inline int32_t* places_of(Buffer buffer) noexcept:
    """The same of a buffer of places."""
    return NULL if buffer is None else <int32_t*> buffer.data


cdef class Operation:
    """One step of a network, both ways."""

    cdef int forward(self, int num_threads) except -1:
        return 0

    cdef int backward(self, int num_threads) except -1:
        return 0


cdef class Convolution(Operation):
    """y = x * w + b, perhaps + r, perhaps with ReLU; all buffers but x, w and y may be None.

    There is no way back through r.
    """
    cdef ConvPlan plan
    cdef Buffer x, w, b, y, dy, dx, dw, db, r
    cdef bint relu
    cdef Py_ssize_t count

    def __init__(self, ConvPlan plan, Buffer x, Buffer w, Buffer b, bint relu, Buffer y,
                 Buffer dy=None, Buffer dx=None, Buffer dw=None, Buffer db=None, Buffer r=None):
        self.plan, self.x, self.w, self.b, self.relu, self.y = plan, x, w, b, relu, y
        self.dy, self.dx, self.dw, self.db, self.r = dy, dx, dw, db, r
        N, OH, OW, K = plan.y
        self.count = N * OH * OW * K

    cdef int forward(self, int num_threads) except -1:
        if self.r is None:
            self.plan.compute_y(at(self.x), at(self.w), at(self.b), self.relu, at(self.y), num_threads)
        else:
            self.plan.compute_sum(at(self.x), at(self.w), at(self.b), at(self.r), self.relu, at(self.y),
                                  num_threads)
        return 0

    cdef int backward(self, int num_threads) except -1:
        if self.relu:
            relu_back(at(self.dy), at(self.y), at(self.dy), self.count, num_threads)
        if self.dx is not None:
            self.plan.compute_dx(at(self.dy), at(self.w), at(self.dx), num_threads)
        self.plan.compute_dw(at(self.x), at(self.dy), at(self.dw), at(self.db), num_threads)
        return 0


cdef class TransposedConvolution(Operation):
    """y = the transposed convolution of x and w, + b, perhaps with ReLU; `dx`, `db` and `b` may be None.

    `plan` is that of the convolution from y to x.
    """
    cdef ConvPlan plan
    cdef Buffer x, w, b, y, dy, dx, dw, db
    cdef bint relu
    cdef Py_ssize_t count

    def __init__(self, ConvPlan plan, Buffer x, Buffer w, Buffer b, bint relu, Buffer y,
                 Buffer dy=None, Buffer dx=None, Buffer dw=None, Buffer db=None):
        self.plan, self.x, self.w, self.b, self.relu, self.y = plan, x, w, b, relu, y
        self.dy, self.dx, self.dw, self.db = dy, dx, dw, db
        N, OH, OW, K = plan.x
        self.count = N * OH * OW * K

    cdef int forward(self, int num_threads) except -1:
        self.plan.compute_dx(at(self.x), at(self.w), at(self.y), num_threads, at(self.b), self.relu)
        return 0

    cdef int backward(self, int num_threads) except -1:
        if self.relu:
            relu_back(at(self.dy), at(self.y), at(self.dy), self.count, num_threads)
        self.plan.compute_transpose_back(at(self.dy), at(self.x), at(self.w), at(self.dx), at(self.dw),
                                         at(self.db), num_threads)
        return 0


cdef class ConvolutionMaxPool(Operation):
    """Convolution, bias, perhaps ReLU, and max pooling; `dx`, `db`, `b` and, if there is no way back,
    `indices` may be None."""
    cdef ConvPoolPlan plan
    cdef Buffer x, w, b, y, indices, dy, dx, dw, db
    cdef bint relu

    def __init__(self, ConvPoolPlan plan, Buffer x, Buffer w, Buffer b, bint relu, Buffer y,
                 Buffer indices, Buffer dy=None, Buffer dx=None, Buffer dw=None, Buffer db=None):
        self.plan, self.x, self.w, self.b, self.relu = plan, x, w, b, relu
        self.y, self.indices = y, indices
        self.dy, self.dx, self.dw, self.db = dy, dx, dw, db

    cdef int forward(self, int num_threads) except -1:
        self.plan.compute(at(self.x), at(self.w), at(self.b), self.relu, at(self.y),
                          places_of(self.indices), num_threads)
        return 0

    cdef int backward(self, int num_threads) except -1:
        self.plan.compute_back(at(self.dy), places_of(self.indices), at(self.x), at(self.w),
                               at(self.dx), at(self.dw), at(self.db), num_threads)
        return 0


cdef class Rectify(Operation):
    """y = ReLU(x); `dx` may be None."""
    cdef Buffer x, y, dy, dx
    cdef Py_ssize_t count

    def __init__(self, Py_ssize_t count, Buffer x, Buffer y, Buffer dy=None, Buffer dx=None):
        self.count, self.x, self.y, self.dy, self.dx = count, x, y, dy, dx

    cdef int forward(self, int num_threads) except -1:
        relu_forward(at(self.x), at(self.y), self.count, num_threads)
        return 0

    cdef int backward(self, int num_threads) except -1:
        if self.dx is not None:
            relu_back(at(self.dy), at(self.y), at(self.dx), self.count, num_threads)
        return 0


cdef class Activate(Operation):
    """y = the activation `kind` of x, with its parameter `a`; `dx` may be None."""
    cdef Buffer x, y, dy, dx
    cdef Py_ssize_t count
    cdef int kind
    cdef real a

    def __init__(self, int kind, double a, Py_ssize_t count, Buffer x, Buffer y, Buffer dy=None,
                 Buffer dx=None):
        self.kind, self.a, self.count, self.x, self.y, self.dy, self.dx = kind, a, count, x, y, dy, dx

    cdef int forward(self, int num_threads) except -1:
        activate_all(self.kind, self.a, at(self.x), at(self.y), self.count, num_threads)
        return 0

    cdef int backward(self, int num_threads) except -1:
        if self.dx is not None:
            slope_all(self.kind, self.a, at(self.dy), at(self.y), at(self.dx), self.count, num_threads)
        return 0


cdef class Normalization(Operation):
    """Batch normalization of x, plus `r`, perhaps with ReLU; `dx`, `r` and `dr` may be None.

    In training the statistics are the batch's, and the moving ones follow; else the moving ones.
    """
    cdef BatchNormPlan plan
    cdef double epsilon, momentum
    cdef bint training, relu
    cdef Buffer x, gamma, beta, r, y, mean, var, moving_mean, moving_var
    cdef Buffer dy, more, dx, dgamma, dbeta, dr

    def __init__(self, BatchNormPlan plan, double epsilon, double momentum, bint training, bint relu,
                 Buffer x, Buffer gamma, Buffer beta, Buffer r, Buffer y, Buffer mean, Buffer var,
                 Buffer moving_mean, Buffer moving_var, Buffer dy=None, Buffer dx=None,
                 Buffer dgamma=None, Buffer dbeta=None, Buffer dr=None):
        self.plan, self.epsilon, self.momentum = plan, epsilon, momentum
        self.training, self.relu = training, relu
        self.x, self.gamma, self.beta, self.r, self.y = x, gamma, beta, r, y
        self.mean, self.var = mean, var
        self.moving_mean, self.moving_var = moving_mean, moving_var
        self.dy, self.dx, self.dgamma, self.dbeta, self.dr = dy, dx, dgamma, dbeta, dr

    cdef int forward(self, int num_threads) except -1:
        self.plan.allot(num_threads)
        if self.training:
            self.plan.run_forward(
                at(self.x), at(self.gamma), at(self.beta), self.epsilon, at(self.r), self.relu,
                at(self.y), at(self.mean), at(self.var), at(self.moving_mean), at(self.moving_var),
                self.momentum, num_threads)
        else:
            self.plan.run_inference(
                at(self.x), at(self.gamma), at(self.beta), at(self.moving_mean),
                at(self.moving_var), self.epsilon, at(self.r), self.relu, at(self.y), num_threads)
        return 0

    def add_to_dy(self, Buffer more):
        """From now on the gradient by y is the sum of `dy` and `more`; with ReLU and a dr alone."""
        self.more = more

    cdef int backward(self, int num_threads) except -1:
        cdef real* y = at(self.y) if self.relu and self.r is not None else NULL
        cdef real* dr = at(self.dr) if self.relu else NULL
        self.plan.allot(num_threads)
        self.plan.run_backward(
            at(self.dy), at(self.more), at(self.x), at(self.gamma), at(self.beta), at(self.mean),
            at(self.var), self.epsilon, self.relu, y, at(self.dx), at(self.dgamma), at(self.dbeta), dr,
            num_threads)
        if self.dr is not None and not self.relu:
            memcpy(self.dr.data, self.dy.data, self.plan.P * self.plan.C * sizeof(real))
        return 0


cdef class AveragePool(Operation):
    """Means over windows, without the padding; `dx` may be None."""
    cdef Window g
    cdef Workspace scratch
    cdef Buffer x, y, dy, dx

    def __init__(self, tuple x_shape, tuple y_shape, tuple window, tuple stride, tuple pads, Buffer x,
                 Buffer y, Buffer dy=None, Buffer dx=None):
        self.g = window_of(x_shape, y_shape, window, stride, (1, 1), pads, False)
        self.scratch = Workspace()
        self.x, self.y, self.dy, self.dx = x, y, dy, dx

    cdef int forward(self, int num_threads) except -1:
        average_all(self.g, at(self.x), at(self.y), self.scratch, num_threads)
        return 0

    cdef int backward(self, int num_threads) except -1:
        if self.dx is not None:
            average_back_all(self.g, at(self.dy), at(self.dx), self.scratch, num_threads)
        return 0


cdef class MaxPool(Operation):
    """Maxima over windows; `indices`, which tells where they were, and `dx` may be None."""
    cdef Window g
    cdef Workspace scratch
    cdef Buffer x, y, indices, dy, dx

    def __init__(self, tuple x_shape, tuple y_shape, tuple window, tuple stride, tuple pads, Buffer x,
                 Buffer y, Buffer indices=None, Buffer dy=None, Buffer dx=None):
        self.g = window_of(x_shape, y_shape, window, stride, (1, 1), pads, False)
        self.scratch = Workspace()
        self.x, self.y, self.indices, self.dy, self.dx = x, y, indices, dy, dx

    cdef int forward(self, int num_threads) except -1:
        max_all(self.g, at(self.x), at(self.y), places_of(self.indices), self.scratch, num_threads)
        return 0

    cdef int backward(self, int num_threads) except -1:
        cdef Window* g = &self.g
        if self.dx is not None:
            max_pool_back(at(self.dy), places_of(self.indices), at(self.dx), g.N, g.H, g.W, g.OH,
                          g.OW, g.C, 0, num_threads)
        return 0


cdef class FoldNormalization(Operation):
    """A normalization in prediction, folded into the weights (inputs, C) before it, when they change."""
    cdef Py_ssize_t inputs, C
    cdef double epsilon
    cdef Buffer w, b, gamma, beta, mean, var, to_w, to_b
    cdef Workspace workspace
    cdef Watch watch
    cdef Py_ssize_t version

    def __init__(self, Py_ssize_t inputs, Py_ssize_t C, double epsilon, Buffer w, Buffer b,
                 Buffer gamma, Buffer beta, Buffer mean, Buffer var, Buffer to_w, Buffer to_b,
                 Watch watch):
        self.inputs, self.C, self.epsilon, self.w, self.b = inputs, C, epsilon, w, b
        self.gamma, self.beta, self.mean, self.var = gamma, beta, mean, var
        self.to_w, self.to_b, self.watch = to_w, to_b, watch
        self.workspace = Workspace()

    cdef int forward(self, int num_threads) except -1:
        if self.version == self.watch.version:
            return 0
        self.version = self.watch.version
        fold_into(at(self.w), at(self.b), at(self.gamma), at(self.beta), at(self.mean), at(self.var),
                  self.epsilon, self.inputs, self.C, self.workspace.take(self.C), at(self.to_w),
                  at(self.to_b), num_threads)
        return 0


cdef class Fork(Operation):
    """One array for two readers; dx = the sum of their gradients."""
    cdef Buffer da, db, dx
    cdef Py_ssize_t count

    def __init__(self, Py_ssize_t count, Buffer da, Buffer db, Buffer dx):
        self.count, self.da, self.db, self.dx = count, da, db, dx

    cdef int backward(self, int num_threads) except -1:
        add_arrays(at(self.da), at(self.db), at(self.dx), False, self.count, num_threads)
        return 0


cdef class Sum(Operation):
    """y = x + r, perhaps with ReLU; `dx` and `dr` may be None."""
    cdef Buffer x, r, y, dy, dx, dr
    cdef Py_ssize_t count
    cdef bint relu

    def __init__(self, Py_ssize_t count, bint relu, Buffer x, Buffer r, Buffer y, Buffer dy=None,
                 Buffer dx=None, Buffer dr=None):
        self.count, self.relu, self.x, self.r, self.y = count, relu, x, r, y
        self.dy, self.dx, self.dr = dy, dx, dr

    cdef int forward(self, int num_threads) except -1:
        add_arrays(at(self.x), at(self.r), at(self.y), self.relu, self.count, num_threads)
        return 0

    cdef int backward(self, int num_threads) except -1:
        cdef Buffer to
        for to in (self.dx, self.dr):
            if to is not None and self.relu:
                relu_back(at(self.dy), at(self.y), at(to), self.count, num_threads)
            elif to is not None:
                memcpy(to.data, self.dy.data, self.count * sizeof(real))
        return 0


cdef class Call(Operation):
    """What has no operation of its own: two Python functions without arguments."""
    cdef object call, call_back

    def __init__(self, call, call_back=None):
        self.call, self.call_back = call, call_back

    cdef int forward(self, int num_threads) except -1:
        self.call()
        return 0

    cdef int backward(self, int num_threads) except -1:
        self.call_back()
        return 0


def run_forward(list operations, int num_threads):
    """Run operations in their order."""
    for operation in operations:
        (<Operation?> operation).forward(num_threads)


def run_backward(list operations, int num_threads):
    """Run their gradients, the last operation first."""
    for operation in reversed(operations):
        (<Operation?> operation).backward(num_threads)
