# The plan of one convolution: its three directions, each prepared when it is first asked for.

cdef class ConvPlan:
    """Everything that one convolution needs again and again: geometry, work items, workspaces.

    One call at a time: `functional` hands a plan to one thread, and takes it back after the call.

    Parameters
    ----------
    x, w, y : tuple
        Shapes (N, H, W, C_in), (KH, KW, C_in // groups, C_out), (N, OH, OW, C_out).
    stride, dilation, before : tuple
        (h, w) each; `before` is the padding at the top and at the left.
    groups : int
    direct : bool
        Refuse Winograd.
    """
    cdef tuple x, w, y, stride, dilation, before
    cdef Py_ssize_t groups
    cdef Gather to_y, to_dx
    cdef Scatter scatter_dx
    cdef Pointwise point_y, point_dx
    cdef Reduce to_dw, to_db  # to_db: of the transposed convolution
    cdef WideReduce to_dw_wide
    cdef Winograd fast_y, fast_dx
    cdef Line line_y, line_dx
    cdef WinogradFilter fast_dw
    cdef RowWinogradFilter row_dw
    cdef DepthwiseGather depthwise_y, depthwise_dx
    cdef DepthwiseReduce depthwise_dw
    cdef LineWide wide_y, wide_dx
    cdef LineWideFilter wide_dw
    cdef bint winograd_y, winograd_dx, winograd_dw, lined_y, lined_dx, few_y, few_dx, few_dw, rows_dw
    cdef bint points_y, points_dx
    cdef readonly bint scatters  # dx
    cdef bint depthwise, splits  # splits: depthwise for dx too
    cdef Py_ssize_t outputs      # pixels of y
    cdef Py_ssize_t rows         # of a dense layer that has very few, else 0
    cdef bint block_y, block_dx, outer_dw  # of few rows (dense.pxi)
    cdef Workspace dense
    cdef Workspaces shared       # with other plans, for dw; or None
    cdef Watch watch             # of w, in prediction; or None

    def __init__(self, tuple x, tuple w, tuple y, tuple stride, tuple dilation, tuple before,
                 Py_ssize_t groups, bint direct=False):
        self.x, self.w, self.y = x, w, y
        self.stride, self.dilation, self.before, self.groups = stride, dilation, before, groups
        self.outputs = y[0] * y[1] * y[2]
        self.dense = Workspace()
        if self.is_pointwise():
            self.rows = self.outputs if self.outputs <= ROWS_FEW else 0
            self.block_y = block_pays(self.outputs, w[2], w[3], False)
            self.block_dx = block_pays(self.outputs, w[3], w[2], True)
            self.outer_dw = outer_pays(self.outputs, w[2], w[3])
            if max(w[2], w[3]) <= POINT_CHANNELS and self.outputs * w[2] * w[3] >= LEAST_WORK:
                self.use("y", self.choose("y", True))
                self.use("dx", self.choose("dx", True))
        self.depthwise = groups == x[3] > 1
        self.splits = self.depthwise and y[3] // x[3] <= DX_MULTIPLIER
        if (not self.depthwise and w[1] > 1
                and self.outputs * w[0] * w[1] * w[2] * w[3] >= LEAST_WORK):
            direct = direct or sizeof(real) == 8
            self.use("dx", self.choose("dx", direct))
            if not direct:
                self.use("y", self.choose("y", False))
                self.use("dw", self.choose("dw", False))

    cdef bint is_pointwise(self) except -1:
        """Whether pixels do not know their neighbours, nor move.

        Transposed convolutions with padding at one end move them, though shapes are the same.
        """
        return (self.x[:3] == self.y[:3] and self.w[:2] == self.stride == (1, 1)
                and self.before == (0, 0) and self.groups == 1)

    cdef list able(self, str direction):
        """What can compute "y", "dx" or "dw"; for `take`."""
        cdef bint across = 1 in (self.stride[1], self.dilation[1]), one = self.groups == 1
        cdef tuple rows_of = self.along_rows(direction == "dx")
        cdef Py_ssize_t C = rows_of[0][3] // self.groups, K = rows_of[1][3] // self.groups
        able = ["direct"]
        if (self.w[:2] == (3, 3) and self.stride == (1, 1)
                and (one or direction != "dw")):
            able.append("winograd")
        if (across and (direction == "dw" or self.w[1] >= self.stride[1])
                and line_parts(rows_of[5], rows_of[3][1], C) is not None):
            if direction != "dw":
                able.append("line")
            if K <= (MOST_FILTER if direction == "dw" and one else WIDE_MOST):
                able.append("wide")
        if direction == "dw" and row_pairs(-(-self.w[1] // self.stride[1]),
                                           -(-self.y[2] // self.dilation[1])):
            able.append("rows")
        if (direction == "dx" and one and self.w[0] <= SCATTER_ROWS
                and (self.dilation[1] == 1 or self.dilation[1] % self.stride[1] == 0)):
            able.append("scatter")
        if direction != "dw" and self.is_pointwise() and max(C, K) <= POINT_CHANNELS:
            able.append("point")
        return able

    def estimates(self, str direction, bint direct=False):
        """Cycles that each driver is expected to take for "y", "dx" or "dw" (choice.pxi).

        If `direct`, of those without Winograd.
        """
        cdef list able = self.able(direction)
        cdef dict cycles
        if direction == "dw":
            cycles = {"direct": filter_cycles(self.y, self.w, self.stride, self.groups)}
            if "winograd" in able:
                cycles["winograd"] = winograd_filter_cycles(self.x, self.y, self.dilation)
            if "rows" in able:
                cycles["rows"] = rows_cycles(self.x, self.y, self.w, self.stride, self.dilation,
                                             self.groups)
            if "wide" in able:
                cycles["wide"] = line_wide_filter_cycles(self.along_rows(False))
            return cycles
        cdef bint back = direction == "dx"
        cdef tuple rows_of = self.along_rows(back)
        cycles = {"direct": gather_cycles(rows_of, back)}
        if "scatter" in able:
            cycles["scatter"] = self.plan_scatter().cycles()
        if "point" in able:
            cycles["point"] = point_cycles(self.outputs, rows_of[0][3], rows_of[1][3])
        if direct:
            return cycles
        if "winograd" in able:
            cycles["winograd"] = winograd_cycles(rows_of[0], rows_of[1], self.dilation,
                                                 self.groups, back)
        if "line" in able:
            cycles["line"] = line_cycles(rows_of, back)
        if "wide" in able:
            cycles["wide"] = line_wide_cycles(rows_of, back)
        return cycles

    cdef str choose(self, str direction, bint direct):
        cdef dict cycles = self.estimates(direction, direct)
        return min(cycles, key=cycles.get)

    def take(self, str direction, str driver):
        """Compute "y", "dx" or "dw" by this driver; what tests ask for.

        "direct", "winograd" (`Winograd`, `WinogradFilter`), "wide" (`LineWide`, `LineWideFilter`),
        "line" (`Line`, not dw), "rows" (`RowWinogradFilter`, dw), "scatter" (`Scatter`, dx) or "point"
        (`Pointwise`, not dw).

        Raises
        ------
        ValueError
            If it cannot.
        """
        if driver not in self.able(direction):
            raise ValueError(
                f"{driver!r} cannot compute {direction} of filters {self.w} at stride {self.stride}, "
                f"dilation {self.dilation}, {self.groups} groups; take one of {self.able(direction)}")
        self.use(direction, driver)

    cdef use(self, str direction, str driver):
        cdef bint flat = driver == "winograd", wide = driver == "wide"
        if direction == "y":
            self.winograd_y, self.lined_y, self.few_y = flat, driver == "line", wide
            self.points_y = driver == "point"
        elif direction == "dx":
            self.winograd_dx, self.lined_dx, self.few_dx = flat, driver == "line", wide
            self.scatters, self.points_dx = driver == "scatter", driver == "point"
        else:
            self.winograd_dw, self.rows_dw, self.few_dw = flat, driver == "rows", wide

    def share(self, Workspaces shared):
        """Use these workspaces, as other plans do that run before or after this one."""
        self.shared = shared

    def follow(self, Watch watch, w=None):
        """Keep what is made of w until `watch` sees a change, in `w` if it is not looked at yet."""
        if not (self.rows or self.block_y):  # they begin with w as it lies
            self.watch = watch
            if w is not None:
                watch.add(w)

    cdef Py_ssize_t version(self):
        return 0 if self.watch is None else self.watch.version

    def algorithm(self, str direction):
        """ "winograd", "depthwise" or "direct": what computes `direction`, one of "y", "dx" and "dw"."""
        chosen = {"y": self.winograd_y or self.lined_y or self.few_y,
                  "dx": self.winograd_dx or self.lined_dx or self.few_dx,
                  "dw": self.winograd_dw or self.few_dw or self.rows_dw}
        if self.splits if direction == "dx" else self.depthwise:
            return "depthwise"
        return "winograd" if chosen[direction] else "direct"

    cdef list phases_y(self):
        KH, KW = self.w[:2]
        taps = [
            (kh * self.dilation[0] - self.before[0], kw * self.dilation[1] - self.before[1],
             kh * KW + kw)
            for kh in range(KH) for kw in range(KW)
        ]
        return [((0, 0), taps)]

    cdef list phases_dx(self):
        """dx[a + s q] = sum of dy[q + (a + before - k d) / s] * w[k] where s divides that."""
        KH, KW = self.w[:2]
        phases = []
        for a in range(min(self.stride[0], self.x[1])):
            rows = [
                ((a + self.before[0] - kh * self.dilation[0]) // self.stride[0], kh)
                for kh in range(KH)
                if (a + self.before[0] - kh * self.dilation[0]) % self.stride[0] == 0
            ]
            for b in range(min(self.stride[1], self.x[2])):
                columns = [
                    ((b + self.before[1] - kw * self.dilation[1]) // self.stride[1], kw)
                    for kw in range(KW)
                    if (b + self.before[1] - kw * self.dilation[1]) % self.stride[1] == 0
                ]
                phases.append(((a, b), [(h, w, kh * KW + kw) for h, kh in rows
                                        for w, kw in columns]))
        return phases

    cdef Gather plan_y(self, bint flat=True):
        C_group, K = self.w[2:]
        return Gather(self.x, self.y, self.groups, self.stride, (1, 1), self.phases_y(),
                      (C_group * K, K, 1, K // self.groups), False, flat)

    cdef Gather plan_dx(self):
        C_group, K = self.w[2:]
        return Gather(self.y, self.x, self.groups, (1, 1), self.stride, self.phases_dx(),
                      (C_group * K, 1, K, K // self.groups), True)

    cdef Scatter plan_scatter(self):
        return Scatter(self.y, self.x, self.w[:2], self.stride, self.dilation, self.before)

    cdef tuple along_rows(self, bint back):
        """y, or if `back` dx, for transforms along the rows: the first arguments of `Line` and `Gather`.

        At dilation d along the rows, outputs d pixels apart are one phase.
        """
        C_group, K = self.w[2:]
        d = self.dilation[1]
        step, stride = (self.stride[0], self.stride[1] * d), (1, d)
        if back:
            phases = spread_columns(self.phases_dx(), d, self.x[2])
            return (self.y, self.x, self.groups, stride, step, phases,
                    (C_group * K, 1, K, K // self.groups))
        phases = spread_columns(self.phases_y(), d, self.y[2])
        return (self.x, self.y, self.groups, step, stride, phases,
                (C_group * K, K, 1, K // self.groups))

    cdef LineWide plan_wide(self, bint back):
        return LineWide(Gather(*self.along_rows(back), back, False))

    cdef plan_dw(self):
        """Chosen by shape alone, not by the width of vectors: the order of the sums differs."""
        if wide_reduce_cycles(self.y, self.w, self.stride, self.groups) < reduce_cycles(
                self.y, self.w, self.stride, self.groups):
            self.to_dw_wide = WideReduce(self.x, self.y, self.w[:2], self.stride, self.dilation,
                                         self.before)
        else:
            self.to_dw = Reduce(self.x, self.y, self.groups, self.w[:2], self.stride, self.dilation,
                                self.before)

    cdef compute_y(self, const real* x, const real* w, const real* b, bint relu, real* y,
                   int num_threads):
        if self.rows:
            dense_rows(x, self.w[2], w, self.w[3], b, relu, self.rows, y, num_threads)
            return
        if self.block_y:
            dense_product(x, self.outputs, self.w[2], w, False, self.w[3], b, relu, y, self.dense,
                          num_threads)
            return
        if self.winograd_y and self.run_winograd(x, w, b, NULL, relu, y, num_threads):
            return
        self.compute_other(x, w, b, relu, y, num_threads)

    cdef bint run_winograd(self, const real* x, const real* w, const real* b, const real* added,
                           bint relu, real* y, int num_threads) except -1:
        if self.fast_y is None:
            self.fast_y = Winograd(self.x, self.y, self.groups, self.dilation, self.before, False)
            if self.shared is not None:  # a prediction keeps filters until they change
                self.fast_y.share(self.shared, self.watch is None)
        return self.fast_y.run(x, w, b, relu, y, num_threads, self.version(), added)

    cdef compute_other(self, const real* x, const real* w, const real* b, bint relu, real* y,
                       int num_threads):
        """y without two-dimensional Winograd and the dense kernels."""
        if self.lined_y and self.line_y is None:
            self.line_y = Line(*self.along_rows(False))
        if self.lined_y and self.line_y.run(x, w, b, relu, y, num_threads, self.version()):
            return
        if self.few_y and self.wide_y is None:
            self.wide_y = self.plan_wide(False)
        if self.few_y and self.wide_y.run(x, w, b, relu, y, num_threads, self.version()):
            return
        if self.points_y and self.point_y is None:
            self.point_y = Pointwise(self.outputs, self.w[2], self.w[3], False)
        if self.points_y:
            self.point_y.run(x, w, b, relu, y, num_threads, self.version())
            return
        if self.depthwise:
            if self.depthwise_y is None:
                self.depthwise_y = DepthwiseGather(self.x, self.y, self.stride, (1, 1),
                                                   self.phases_y(), False)
            self.depthwise_y.run(x, w, b, relu, y, num_threads)
            return
        if self.to_y is None:
            self.to_y = self.plan_y()
        self.to_y.run(x, w, b, relu, y, num_threads, self.version())

    cdef compute_sum(self, const real* x, const real* w, const real* b, const real* added, bint relu,
                     real* y, int num_threads):
        """y = x * w + b + added, which is like y, then ReLU if `relu`."""
        if self.winograd_y:
            if self.run_winograd(x, w, b, added, relu, y, num_threads):
                return
            self.compute_other(x, w, b, False, y, num_threads)
        else:
            self.compute_y(x, w, b, False, y, num_threads)
        add_arrays(y, added, y, relu, self.outputs * self.w[3], num_threads)

    cdef compute_dx(self, const real* dy, const real* w, real* dx, int num_threads,
                    const real* b=NULL, bint relu=False):
        """dx; with `b` and ReLU, which a transposed convolution may have, added in the same pass."""
        if self.block_dx:
            dense_product(dy, self.outputs, self.w[3], w, True, self.w[2], b, relu, dx, self.dense,
                          num_threads)
            return
        if self.winograd_dx and self.fast_dx is None:
            self.fast_dx = Winograd(
                self.y, self.x, self.groups, self.dilation,
                tuple([2 * d - before for d, before in zip(self.dilation, self.before)]), True)
            if self.shared is not None:
                self.fast_dx.share(self.shared, True)
        if self.winograd_dx and self.fast_dx.run(dy, w, b, relu, dx, num_threads):
            return
        if self.lined_dx and self.line_dx is None:
            self.line_dx = Line(*self.along_rows(True))
        if self.lined_dx and self.line_dx.run(dy, w, b, relu, dx, num_threads):
            return
        if self.splits and self.depthwise_dx is None:
            self.depthwise_dx = DepthwiseGather(self.y, self.x, (1, 1), self.stride,
                                                self.phases_dx(), True)
        if self.splits and self.depthwise_dx.run(dy, w, b, relu, dx, num_threads):
            return
        if self.few_dx and self.wide_dx is None:
            self.wide_dx = self.plan_wide(True)
        if self.few_dx and self.wide_dx.run(dy, w, b, relu, dx, num_threads):
            return
        if self.scatters and self.scatter_dx is None:
            self.scatter_dx = self.plan_scatter()
        if self.scatters:
            self.scatter_dx.run(dy, w, b, relu, dx, num_threads)
            return
        if self.points_dx and self.point_dx is None:
            self.point_dx = Pointwise(self.outputs, self.w[3], self.w[2], True)
        if self.points_dx:
            self.point_dx.run(dy, w, b, relu, dx, num_threads)
            return
        if self.to_dx is None:
            self.to_dx = self.plan_dx()
        self.to_dx.run(dy, w, b, relu, dx, num_threads)

    cdef compute_dw(self, const real* x, const real* dy, real* dw, real* db, int num_threads):
        """Either of dw and db may be NULL."""
        if self.outer_dw:
            dense_filter(x, dy, self.outputs, self.w[2], self.w[3], dw, db, num_threads)
            return
        if self.winograd_dw and self.fast_dw is None:
            self.fast_dw = WinogradFilter(self.x, self.y, self.dilation, self.before)
            if self.shared is not None:
                self.fast_dw.share(self.shared)
        if self.winograd_dw and dw != NULL and self.fast_dw.run(x, dy, dw, db, num_threads):
            return
        if self.depthwise:
            if self.depthwise_dw is None:
                self.depthwise_dw = DepthwiseReduce(self.x, self.y, self.w[:2], self.stride,
                                                    self.dilation, self.before)
            self.depthwise_dw.run(x, dy, dw, db, num_threads)
            return
        if self.few_dw and self.wide_dw is None:
            KH, KW, C_group, K = self.w
            self.wide_dw = LineWideFilter(self.plan_wide(False), KH * KW * C_group * K)
        if self.few_dw and dw != NULL and self.wide_dw.run(x, dy, dw, db, num_threads):
            return
        if self.rows_dw and self.row_dw is None:
            self.row_dw = RowWinogradFilter(self.x, self.y, self.groups, self.w[:2], self.stride,
                                            self.dilation, self.before)
        if self.rows_dw and dw != NULL and self.row_dw.run_all(x, dy, dw, db, num_threads):
            return
        if self.to_dw is None and self.to_dw_wide is None:
            self.plan_dw()
        if self.to_dw is None:
            self.to_dw_wide.run(x, dy, dw, db, num_threads)
        else:
            self.to_dw.run(x, dy, dw, db, num_threads)

    def forward(self, const real[:, :, :, ::1] x, const real[:, :, :, ::1] w, const real[::1] b,
                bint relu, real[:, :, :, ::1] y, int num_threads):
        """y = x * w + b, then ReLU if `relu`; `b` is None or of shape (C_out,)."""
        if y.shape[0]:
            self.compute_y(&x[0, 0, 0, 0], &w[0, 0, 0, 0], NULL if b is None else <real*> &b[0], relu,
                           &y[0, 0, 0, 0], num_threads)

    def backward(self, const real[:, :, :, ::1] dy, const real[:, :, :, ::1] x,
                 const real[:, :, :, ::1] w, real[:, :, :, ::1] dx, real[:, :, :, ::1] dw,
                 real[::1] db, int num_threads):
        """Fill dx, dw and db; each may be None. N is at least 1."""
        if dx is not None:
            self.compute_dx(&dy[0, 0, 0, 0], &w[0, 0, 0, 0], &dx[0, 0, 0, 0], num_threads)
        if dw is not None or db is not None:
            self.compute_dw(&x[0, 0, 0, 0], &dy[0, 0, 0, 0], NULL if dw is None else &dw[0, 0, 0, 0],
                            NULL if db is None else &db[0], num_threads)

    cdef compute_transpose_back(self, const real* dy, const real* x, const real* w, real* dx, real* dw,
                                real* db, int num_threads):
        """Gradients of the transposed convolution, where dy is this convolution's input; or NULL."""
        if dx != NULL:
            self.compute_y(dy, w, NULL, False, dx, num_threads)
        if dw != NULL:
            self.compute_dw(dy, x, dw, NULL, num_threads)
        if db != NULL:
            if self.to_db is None:
                self.to_db = Reduce(self.x, self.x, 1, (1, 1), (1, 1), (1, 1), (0, 0))
            self.to_db.run(dy, dy, NULL, db, num_threads)

    def transpose(self, const real[:, :, :, ::1] x, const real[:, :, :, ::1] w, const real[::1] b,
                  bint relu, real[:, :, :, ::1] y, int num_threads):
        """The transposed convolution: y is what `backward` calls dx, with bias and ReLU; x is its dy."""
        cdef const real* bias = NULL
        if b is not None:
            bias = &b[0]
        if y.shape[0]:
            self.compute_dx(&x[0, 0, 0, 0], &w[0, 0, 0, 0], &y[0, 0, 0, 0], num_threads, bias, relu)

    def transpose_backward(self, const real[:, :, :, ::1] dy, const real[:, :, :, ::1] x,
                           const real[:, :, :, ::1] w, real[:, :, :, ::1] dx,
                           real[:, :, :, ::1] dw, real[::1] db, int num_threads):
        """Its gradients; each may be None. N is at least 1."""
        self.compute_transpose_back(
            &dy[0, 0, 0, 0], &x[0, 0, 0, 0], &w[0, 0, 0, 0], NULL if dx is None else &dx[0, 0, 0, 0],
            NULL if dw is None else &dw[0, 0, 0, 0], NULL if db is None else &db[0], num_threads)
