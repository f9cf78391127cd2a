// Convolutions of images (NHWC) with kernels (HWIO) in float32, stride 1, "same" padding, for XLA on a CPU: the forward
// pass, which with a flipped kernel is also the gradient with respect to the inputs, and the gradient with
// respect to the kernel.
//
// 1. Register tiles. A core starts two vector products per cycle but loads only two vectors, so each loaded value must
//    be used several times while it is in a register. A tile holds the sums of N pixels x V vectors of output channels.
//    For each term it loads V vectors of the kernel and N inputs, and computes N x V products: 8 loads for 12 products
//    if N = 6 and V = 2. 12 sums, 2 vectors and an input fill 15 of AVX2's 16 registers. With fewer than 8 sums, the
//    core would wait: a product takes 4 cycles.
// 2. Fewer products. m neighbouring outputs of a kernel row with k columns take m k products. They are coefficients of
//    a product of polynomials, which is determined by its values at m + k - 1 points, with one product per point (Toom,
//    1963; Cook, 1966; for networks Lavin and Gray, 2016). With 8 points and 5 columns, 4 outputs take 8 products, not
//    20. `Evaluate` computes a row of the image at the points; tiles sum there over the rows of the kernel and the
//    channels; `Interpolate` computes the outputs from the sums. Only along rows: the rounding error is two to three
//    times that of plain sums, and in both directions it would grow by this factor again.
// 3. Same bits for any number of threads: the work is divided by images and rows, and each sum has a fixed order.

#include <nanobind/nanobind.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

#if defined(__AVX512F__) || defined(SEGJAX_WIDE)  // SEGJAX_WIDE: to test the code for AVX-512 on any machine
constexpr int LANES = 16, SUMS = 24;  // floats per vector; sums per tile, for 32 registers
#else
constexpr int LANES = 8, SUMS = 12;  // AVX2 has 16 registers. NEON has 32; two make one of these vectors.
#endif
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// 0, 1, -1, 2, -2, 1/2, -1/2 and infinity: small values, since rounding errors grow with their powers.
constexpr int POINTS = 8;
constexpr double FINITE_POINTS[] = {0, 1, -1, 2, -2, 0.5, -0.5};
// Powers of 1, 2 and 1/2, up to the largest number of outputs of a tile: 6.
constexpr float POWERS[][3] = {{1, 1, 1},        {1, 2, 1.f / 2},   {1, 4, 1.f / 4},
                               {1, 8, 1.f / 8}, {1, 16, 1.f / 16}, {1, 32, 1.f / 32}};
// A piece of work has 4 to 16 rows, with up to 131072 values at the points, 512 KB: a core's L2 cache. The gradient
// with respect to the kernel sums 4 rows at a time, which fit into the L1 cache; its shares take at most 64 MB, or 8
// kernels.
constexpr int64_t PIECE_ROWS = 16, PIECE_NUMBERS = 131072, GRADIENT_ROWS = 4, SHARE_NUMBERS = 1 << 24;
constexpr int64_t PIXELS = 4, VECTORS = 5;  // sums of a tile if there is one output channel

struct Shape {
  int64_t batch, height, width, in, out, kernel_height, kernel_width;
  int64_t above, left;  // zeros before the first row and column

  int64_t taps() const { return kernel_height * kernel_width; }
  // Two columns would save little, with eight times the error of plain sums.
  bool at_points() const { return std::min(in, out) >= 8 && kernel_width > 2 && kernel_width < POINTS; }
  int64_t block() const { return out == 1 ? 1 : out > LANES ? 2 * LANES : LANES; }  // output channels of a tile
  int64_t stride() const { return (out + block() - 1) / block() * block(); }        // in whole blocks
};

// Layout of a row of an image: its values (points, tiles, channels), or the row with zeros around it, as one point.
struct Layout {
  int64_t channels, points, outputs, tiles, terms, plane;  // pixels of a tile; its products with a row of the kernel

  Layout(const Shape& s, bool at_points, int64_t channels)
      : channels(channels), points(at_points ? POINTS : 1), outputs(at_points ? POINTS + 1 - s.kernel_width : 1),
        tiles((s.width + outputs - 1) / outputs), terms(at_points ? s.in : s.kernel_width * s.in),
        plane(at_points ? tiles * channels + 2 * LANES : padded(s)) {}
  int64_t row() const { return points * plane; }
  // The last vectors and tiles extend beyond the end of the row.
  int64_t padded(const Shape& s) const { return (tiles * outputs + s.kernel_width + PIXELS) * channels + VECTORS * LANES; }
};

Vector Load(const float* from) { return *(const Vector*)from; }

// The first `count` values of V vectors.
template <int V>
void Store(float* to, const Vector* values, int64_t count = V * LANES) {
  if (count < V * LANES) return void(std::memcpy(to, values, 4 * count));
  for (int v = 0; v < V; ++v) *(Vector*)(to + v * LANES) = values[v];
}

float* Scratch(int64_t size) {
  // One per thread, of the largest size requested so far: fresh memory costs page faults.
  thread_local std::vector<float> scratch;
  if (scratch.size() < size_t(size)) scratch.resize(size);
  return scratch.data();
}

// Runs `work(0)` to `work(count - 1)` on XLA's threads and on this one. It waits for pieces that are running on another
// thread, never for a free thread: all threads may be waiting here.
template <typename Work>
void Parallel(ffi::ThreadPool& pool, int64_t count, const Work& work) {
  struct State {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto state = std::make_shared<State>();
  // A thread that starts late gets no piece, and does not access `work`, which no longer exists then. `noexcept`: if
  // there is no memory the process ends, since the error could not reach the other threads.
  auto take = [state, count, &work]() noexcept {
    int64_t mine = 0;
    for (int64_t i; (i = state->next.fetch_add(1)) < count; ++mine) work(i);
    if (mine && state->done.fetch_add(mine) + mine == count) {
      std::lock_guard<std::mutex> lock(state->mutex);
      state->all_done.notify_all();
    }
  };
  for (int64_t i = 1; i < std::min<int64_t>(pool.num_threads(), count); ++i) pool.Schedule(decltype(take)(take));
  take();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->all_done.wait(lock, [&] { return state->done.load() == count; });
}

// A band of rows of one image, which is computed at once.
struct Pieces {
  int64_t rows, bands, count;

  explicit Pieces(const Shape& s) {
    int64_t row = Layout(s, s.at_points(), s.in).row() + Layout(s, s.at_points(), s.out).row();
    rows = std::clamp<int64_t>(PIECE_NUMBERS / row - s.kernel_height + 1, 4, PIECE_ROWS);
    bands = (s.height + rows - 1) / rows, count = s.batch * bands;
  }
  int64_t image(int64_t piece) const { return piece / bands; }
  int64_t first(int64_t piece) const { return piece % bands * rows; }
  int64_t height(const Shape& s, int64_t piece) const { return std::min(rows, s.height - first(piece)); }
};

// At the points, infinities, NaNs and values whose products may overflow affect all outputs of a tile, and values near
// the smallest float underflow: rows with such values are summed plainly.
bool Moderate(const float* numbers, int64_t count) {
  int wild = 0, normal = 0, any = 0;
  for (int64_t i = 0; i < count; ++i) {
    float size = std::fabs(numbers[i]);
    wild |= !(size < 1e15f), normal |= size > 1e-15f, any |= size > 0;
  }
  return !wild && (normal || !any);
}

// The values at a point and at its negative, which share the sums over even and over odd powers.
void StorePairs(const Layout& l, float* to, Vector zero, const Vector* even, const Vector* odd, Vector infinity) {
  Store<1>(to, &zero);
  for (int p = 0; p < 3; ++p) {
    Vector plus = even[p] + odd[p], minus = even[p] - odd[p];
    Store<1>(to + (2 * p + 1) * l.plane, &plus);
    Store<1>(to + (2 * p + 2) * l.plane, &minus);
  }
  Store<1>(to + 7 * l.plane, &infinity);
}

// A row of inputs at the points. The weights of a point are the coefficients of the product of (z - other) over all
// other finite points, multiplied by a power of 2 and, for 0, by -1.
void Evaluate(const Layout& l, const float* padded, float* values) {
  for (int64_t t = 0; t < l.tiles; ++t)
    for (int64_t c = 0; c < l.channels; c += LANES) {
      Vector d[POINTS];
      for (int i = 0; i < POINTS; ++i) d[i] = Load(padded + (t * l.outputs + i) * l.channels + c);
      Vector even[] = {d[2] - 4.25f * d[4] + d[6], 0.25f * d[2] - 1.25f * d[4] + d[6], 4.f * d[2] - 5.f * d[4] + d[6]};
      Vector odd[] = {d[1] - 4.25f * d[3] + d[5], 0.5f * d[1] - 2.5f * d[3] + 2.f * d[5],
                      2.f * d[1] - 2.5f * d[3] + 0.5f * d[5]};
      StorePairs(l, values + t * l.channels + c, d[0] - d[6] + 5.25f * (d[4] - d[2]), even, odd,
                 d[7] - d[1] + 5.25f * (d[3] - d[5]));
    }
}

// The transpose of `Interpolate`: a row of the outputs' gradient at the points.
void EvaluateGradient(const Layout& l, const float* padded, float* values) {
  for (int64_t t = 0; t < l.tiles; ++t)
    for (int64_t c = 0; c < l.channels; c += LANES) {
      const float* from = padded + t * l.outputs * l.channels + c;
      Vector even[3] = {}, odd[3] = {};
      for (int64_t i = 0; i < l.outputs; i += 2)
        for (int p = 0; p < 3; ++p) even[p] += POWERS[i][p] * Load(from + i * l.channels);
      for (int64_t i = 1; i < l.outputs; i += 2)
        for (int p = 0; p < 3; ++p) odd[p] += POWERS[i][p] * Load(from + i * l.channels);
      Vector last = Load(from + (l.outputs - 1) * l.channels);
      StorePairs(l, values + t * l.channels + c, Load(from), even, odd, last);
    }
}

// The outputs of a row, computed from the sums (points, tiles, block) of one block of output channels.
void Interpolate(const Shape& s, const Layout& l, const float* sums, int64_t channels, float* out) {
  int64_t plane = l.tiles * s.block();
  for (int64_t t = 0; t < l.tiles; ++t)
    for (int64_t c = 0; c < channels; c += LANES) {
      const float* from = sums + t * s.block() + c;
      Vector even[3], odd[3], zero = Load(from), infinity = Load(from + 7 * plane);
      for (int p = 0; p < 3; ++p) {
        Vector plus = Load(from + (2 * p + 1) * plane), minus = Load(from + (2 * p + 2) * plane);
        even[p] = plus + minus, odd[p] = plus - minus;
      }
      for (int64_t i = 0; i < std::min(l.outputs, s.width - t * l.outputs); ++i) {
        const Vector* half = i % 2 ? odd : even;
        Vector y = half[0] + POWERS[i][1] * half[1] + POWERS[i][2] * half[2];
        if (i == 0) y += zero;
        if (i == l.outputs - 1) y += infinity;
        Store<1>(out + (t * l.outputs + i) * s.out + c, &y, channels - c);
      }
    }
}

// weights[f][j] of column j of a kernel at point f: point^j, over the product of its distances from the other points.
struct Columns {
  double weights[POINTS][POINTS] = {};

  explicit Columns(int64_t columns) {
    for (int f = 0; f < POINTS - 1; ++f) {
      double distances = f == 0 ? -1 : 1;  // the sign that `Evaluate` has changed
      for (double other : FINITE_POINTS) distances *= other == FINITE_POINTS[f] ? 1 : FINITE_POINTS[f] - other;
      for (int j = 0; j < columns; ++j) weights[f][j] = std::pow(FINITE_POINTS[f], j) / distances;
    }
    weights[POINTS - 1][columns - 1] = 1;
  }
};

// A row of an image, or of the outputs' gradient, with zeros around it or at the points; false if it is not moderate.
template <typename Evaluation>
bool Prepare(const Shape& s, const Layout& l, const float* image, int64_t y, int64_t left, float* padded, float* row,
             const Evaluation& evaluate) {
  float *to = l.points == 1 ? row : padded, *inside = to + left * l.channels, *right = inside + s.width * l.channels;
  if (y < 0 || y >= s.height) inside = right = to;
  std::fill(to, inside, 0.0f);
  std::fill(right, to + l.padded(s), 0.0f);
  if (inside != right) std::memcpy(inside, image + y * s.width * l.channels, 4 * (right - inside));
  if (l.points == 1) return true;
  if (!Moderate(inside, right - inside)) return false;
  evaluate(l, padded, row);
  return true;
}

// The kernel as tiles read it, (blocks, points, kernel_height, terms, block), with zeros for channels beyond the last;
// flipped, with its channels swapped, for the gradient with respect to the inputs. Empty at the points if it is not
// moderate.
std::vector<float> Pack(const Shape& s, const float* kernel, bool flipped, bool at_points) {
  if (at_points && !Moderate(kernel, s.taps() * s.in * s.out)) return {};
  Layout l(s, at_points, s.in);
  Columns columns(at_points ? s.kernel_width : 1);
  int64_t block = s.block(), plane = s.kernel_height * l.terms * block;
  std::vector<float> packed(s.stride() / block * l.points * plane);
  for (int64_t o = 0; o < s.out; ++o)
    for (int64_t t = 0; t < s.taps(); ++t)
      for (int64_t i = 0; i < s.in; ++i) {
        float value = flipped ? kernel[((s.taps() - 1 - t) * s.out + o) * s.in + i] : kernel[(t * s.in + i) * s.out + o];
        float* to = packed.data() + o / block * l.points * plane + o % block;
        if (!at_points) to[(t * s.in + i) * block] = value;
        for (int f = 0; at_points && f < POINTS; ++f)
          to[f * plane + (t / s.kernel_width * s.in + i) * block] += columns.weights[f][t % s.kernel_width] * value;
      }
  return packed;
}

// The products of N tiles of a row at one point and one block of output channels, over all rows of the kernel.
template <int N, int V>
void Tile(const Shape& s, const Layout& l, const float* row, const float* kernel, int64_t channels, int64_t stride,
          float* out) {
  Vector sum[N][V] = {};
  for (int64_t ky = 0; ky < s.kernel_height; ++ky, row += l.row())
    for (int64_t j = 0; j < l.terms; ++j, kernel += V * LANES)
      for (int n = 0; n < N; ++n)
        for (int v = 0; v < V; ++v) sum[n][v] += row[n * s.in + j] * Load(kernel + v * LANES);
  for (int n = 0; n < N; ++n) Store<V>(out + n * stride, sum[n], channels);
}

// Adds to N terms of one row of the kernel times one block of output channels, over the tiles of some rows.
template <int N, int V>
void GradientTile(const Shape& s, const Layout& l, const Layout& g, const float* row, const float* gradient, int64_t rows,
                  float* out) {
  Vector sum[N][V];
  for (int n = 0; n < N; ++n)
    for (int v = 0; v < V; ++v) sum[n][v] = Load(out + n * s.stride() + v * LANES);
  for (int64_t r = 0; r < rows; ++r, row += l.row(), gradient += g.row())
    for (int64_t t = 0; t < l.tiles; ++t)
      for (int n = 0; n < N; ++n)
        for (int v = 0; v < V; ++v) sum[n][v] += row[t * s.in + n] * Load(gradient + t * s.out + v * LANES);
  for (int n = 0; n < N; ++n) Store<V>(out + n * s.stride(), sum[n]);
}

// Calls `tile(N, V, first)` for parts of `count`. The sums are in registers only if the compiler knows their number.
template <int V, int N = std::min(12, SUMS / V), typename Function>
void InTiles(int64_t count, const Function& tile, int64_t first = 0) {
  for (; first + N <= count; first += N) tile(std::integral_constant<int, N>(), std::integral_constant<int, V>(), first);
  if constexpr (N > 1)
    if (first < count) InTiles<V, N - 1>(count, tile, first);
}

// For one output channel the blocks would contain one value, so the vectors are over the terms.
void OneChannel(const Shape& s, const Layout& l, const float* row, const float* kernel, int64_t pixels, float* out) {
  Vector sum[PIXELS] = {};
  float rest[PIXELS] = {};
  int64_t whole = l.terms / LANES * LANES;
  for (int64_t ky = 0; ky < s.kernel_height; ++ky, kernel += l.terms, row += l.row()) {
    for (int64_t j = 0; j < whole; j += LANES)
      for (int n = 0; n < PIXELS; ++n) sum[n] += Load(kernel + j) * Load(row + n * s.in + j);
    for (int64_t j = whole; j < l.terms; ++j)
      for (int n = 0; n < PIXELS; ++n) rest[n] += kernel[j] * row[n * s.in + j];
  }
  for (int n = 0; n < pixels; ++n) {
    for (int lane = 0; lane < LANES; ++lane) rest[n] += sum[n][lane];
    out[n] = rest[n];
  }
}

void OneChannelGradient(const Shape& s, const Layout& l, const Layout& g, const float* row, const float* gradient,
                        int64_t rows, int64_t terms, float* out) {
  Vector sum[VECTORS] = {};
  for (int64_t r = 0; r < rows; ++r, row += l.row(), gradient += g.row())
    for (int64_t x = 0; x < s.width; ++x)
      for (int n = 0; n < VECTORS; ++n) sum[n] += gradient[x] * Load(row + x * s.in + n * LANES);
  for (int64_t j = 0; j < terms; ++j) out[j] += sum[j / LANES][j % LANES];
}

// The outputs of some rows of an image. False if these are not moderate.
bool Forward(const Shape& s, bool at_points, const float* image, const float* packed, int64_t first, int64_t rows,
             float* out) {
  Layout l(s, at_points, s.in);
  int64_t sums_size = l.points * l.tiles * s.block(), last = rows + s.kernel_height - 1;
  float* sums = Scratch(sums_size + l.padded(s) + last * l.row());
  float *padded = sums + sums_size, *values = padded + l.padded(s);
  for (int64_t r = 0; r < last; ++r)
    if (!Prepare(s, l, image, first + r - s.above, s.left, padded, values + r * l.row(), Evaluate)) return false;
  for (int64_t r = 0; r < rows; ++r, values += l.row(), out += s.width * s.out) {
    for (int64_t x = 0; s.out == 1 && x < s.width; x += PIXELS)
      OneChannel(s, l, values + x * s.in, packed, std::min(PIXELS, s.width - x), out + x);
    const float* kernel = packed;
    for (int64_t c = 0; s.out > 1 && c < s.out; c += s.block()) {
      int64_t channels = std::min(s.block(), s.out - c), stride = at_points ? s.block() : s.out;
      for (int64_t f = 0; f < l.points; ++f, kernel += s.kernel_height * l.terms * s.block()) {
        float* to = at_points ? sums + f * l.tiles * stride : out + c;
        auto tile = [&](auto n, auto v, int64_t t) {
          Tile<n, v>(s, l, values + f * l.plane + t * s.in, kernel, at_points ? stride : channels, stride, to + t * stride);
        };
        s.block() == LANES ? InTiles<1>(l.tiles, tile) : InTiles<2>(l.tiles, tile);
      }
      if (at_points) Interpolate(s, l, sums, channels, out + c);
    }
  }
  return true;
}

// Adds the share of some rows to the gradient with respect to the kernel, (kernel_height, kernel_width, in, out).
bool Gradient(const Shape& s, bool at_points, const float* image, const float* gradient, int64_t first, int64_t rows,
              float* out) {
  Layout l(s, at_points, s.in), g(s, at_points, s.out);
  int64_t last = rows + s.kernel_height - 1, plane = s.kernel_height * l.terms * s.stride();
  int64_t padded_size = std::max(l.padded(s), g.padded(s));
  float* sums = Scratch(l.points * plane + padded_size + last * l.row() + rows * g.row());
  float *padded = sums + l.points * plane, *values = padded + padded_size, *gradients = values + last * l.row();
  for (int64_t r = 0; r < last; ++r)
    if (!Prepare(s, l, image, first + r - s.above, s.left, padded, values + r * l.row(), Evaluate)) return false;
  for (int64_t r = 0; r < rows; ++r)
    if (!Prepare(s, g, gradient, first + r, 0, padded, gradients + r * g.row(), EvaluateGradient)) return false;
  for (int64_t ky = 0; s.out == 1 && ky < s.kernel_height; ++ky, values += l.row(), out += l.terms)
    for (int64_t j = 0; j < l.terms; j += VECTORS * LANES)
      OneChannelGradient(s, l, g, values + j, gradients, rows, std::min(VECTORS * LANES, l.terms - j), out + j);
  if (s.out == 1) return true;
  std::fill(sums, sums + l.points * plane, 0.0f);
  for (int64_t f = 0; f < l.points; ++f)
    for (int64_t r = 0; r < rows; r += GRADIENT_ROWS)
      for (int64_t ky = 0; ky < s.kernel_height; ++ky)
        for (int64_t c = 0; c < s.out; c += s.block()) {
          auto tile = [&](auto n, auto v, int64_t j) {
            GradientTile<n, v>(s, l, g, values + (r + ky) * l.row() + f * l.plane + j,
                               gradients + r * g.row() + f * g.plane + c, std::min(GRADIENT_ROWS, rows - r),
                               sums + f * plane + (ky * l.terms + j) * s.stride() + c);
          };
          s.block() == LANES ? InTiles<1>(l.terms, tile) : InTiles<2>(l.terms, tile);
        }
  Columns columns(at_points ? s.kernel_width : 1);
  for (int64_t t = 0; t < s.taps(); ++t)
    for (int64_t i = 0; i < s.in; ++i, out += s.out) {
      const float* from = sums + (at_points ? t / s.kernel_width * s.in + i : t * s.in + i) * s.stride();
      for (int64_t f = 0; f < l.points; ++f)
        for (int64_t o = 0; o < s.out; ++o)
          out[o] += (at_points ? float(columns.weights[f][t % s.kernel_width]) : 1.0f) * from[f * plane + o];
    }
  return true;
}

using Buffer = ffi::Buffer<ffi::F32, 4>;
using Result = ffi::Result<Buffer>;

ffi::Error ForwardCall(ffi::ThreadPool pool, Buffer inputs, Buffer kernel, bool flipped, Result outputs) {
  auto x = inputs.dimensions(), k = kernel.dimensions(), y = outputs->dimensions();
  Shape s{x[0], x[1], x[2], x[3], y[3], k[0], k[1], (k[0] - !flipped) / 2, (k[1] - !flipped) / 2};
  if (k[flipped ? 3 : 2] != s.in || k[flipped ? 2 : 3] != s.out || !std::equal(x.begin(), x.begin() + 3, y.begin()) ||
      s.taps() * s.in * s.out == 0)
    return ffi::Error::InvalidArgument("shapes of inputs, kernel and outputs do not fit");
  std::vector<float> at_points, plain = Pack(s, kernel.typed_data(), flipped, false);
  if (s.at_points()) at_points = Pack(s, kernel.typed_data(), flipped, true);
  Pieces pieces(s);
  Parallel(pool, pieces.count, [&](int64_t piece) {
    int64_t image = pieces.image(piece), first = pieces.first(piece), rows = pieces.height(s, piece);
    const float* from = inputs.typed_data() + image * s.height * s.width * s.in;
    float* to = outputs->typed_data() + (image * s.height + first) * s.width * s.out;
    if (at_points.empty() || !Forward(s, true, from, at_points.data(), first, rows, to))
      Forward(s, false, from, plain.data(), first, rows, to);
  });
  return ffi::Error::Success();
}

ffi::Error GradientCall(ffi::ThreadPool pool, Buffer inputs, Buffer gradient, Result kernel) {
  auto x = inputs.dimensions(), g = gradient.dimensions(), k = kernel->dimensions();
  Shape s{x[0], x[1], x[2], x[3], g[3], k[0], k[1], (k[0] - 1) / 2, (k[1] - 1) / 2};
  if (k[2] != s.in || k[3] != s.out || !std::equal(x.begin(), x.begin() + 3, g.begin()) || s.taps() * s.in * s.out == 0)
    return ffi::Error::InvalidArgument("shapes of inputs, gradient and kernel do not fit");
  Pieces pieces(s);
  // A share is the sum of some pieces in order. The number of shares depends on the memory, not on the threads.
  int64_t size = s.taps() * s.in * s.out, most = std::max<int64_t>(8, SHARE_NUMBERS / size);
  int64_t together = std::max<int64_t>(1, (pieces.count + most - 1) / most), count = (pieces.count + together - 1) / together;
  std::vector<float> shares(count * size);
  Parallel(pool, count, [&](int64_t share) {
    for (int64_t piece = share * together; piece < std::min(pieces.count, (share + 1) * together); ++piece) {
      int64_t image = pieces.image(piece), first = pieces.first(piece), rows = pieces.height(s, piece);
      const float* from = inputs.typed_data() + image * s.height * s.width * s.in;
      const float* by = gradient.typed_data() + image * s.height * s.width * s.out;
      float* to = shares.data() + share * size;
      if (!s.at_points() || !Gradient(s, true, from, by, first, rows, to)) Gradient(s, false, from, by, first, rows, to);
    }
  });
  float* total = kernel->typed_data();
  std::fill(total, total + size, 0.0f);
  for (auto share = shares.begin(); share != shares.end(); share += size)
    std::transform(share, share + size, total, total, std::plus<float>());
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kForward, ForwardCall,
                       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Attr<bool>("flipped").Ret<Buffer>());
XLA_FFI_DEFINE_HANDLER(kGradient, GradientCall,
                       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>());

}  // namespace

NB_MODULE(_convolution, module) {
  module.def("targets", [] {
    nanobind::dict targets;
    targets["segjax_forward"] = nanobind::capsule((void*)kForward);
    targets["segjax_kernel_gradient"] = nanobind::capsule((void*)kGradient);
    return targets;
  });
}
