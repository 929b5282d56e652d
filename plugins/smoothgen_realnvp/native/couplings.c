/* All couplings of a CouplingStack from data to noise, and back through their gradients. See compiled_couplings.py. */
#include "dense.h"

#define MOST_LAYERS 16
#define TWO_PI 6.283185307179586

/* Couplings that keep the same columns; parameters of all of them are stacked. Gradients are none where not wanted. */
typedef struct {
  long kept, moved, layers;
  const long *widths;      /* (layers + 1) */
  const long *coordinates; /* of the kept columns, (kept) */
  const real *const *weights, *const *biases;
  const real *gain;
  real *const *weight_gradients, *const *bias_gradients;
  real *gain_gradient;
} Group;

typedef struct {
  long batch, count, kind, octaves, features, features_step, phase_step;
  double bound, max_log_scale, longest; /* longest: the angle of one turn of the longest wave, 2 pi but for rounding */
  const real *feature, *phase, *rate; /* (batch, features), (batch or 1, D), (D), or none */
  real *feature_gradient, *phase_gradient;
  Group group[2];
} Stack;

#ifdef DOUBLE
#define TURNS(s) ((s)->longest / TWO_PI) /* a model made in float32 and cast keeps its rounded 2 pi */
#else
#define TURNS(s) 1
#endif

/* sin and cos of 2 pi turns, to the last digits however many turns: the whole ones are dropped first. */
INLINE void wave(real turns, real *sine, real *cosine) {
#ifdef DOUBLE
  real magic = 6755399441055744.0;
#else
  real magic = 12582912.0f;
#endif
  real whole = (turns + magic) - magic;
  real part = turns - whole; /* -1/2 .. 1/2 */
  real quarter = (4 * part + magic) - magic;
  real r = (part - quarter / 4) * (real)TWO_PI, z = r * r; /* -pi/4 .. pi/4 */
#ifdef DOUBLE
  real s = r + r * z * (-1.66666666666666307295E-1 + z * (8.33333333332211858878E-3 + z * (-1.98412698295895385996E-4 +
           z * (2.75573136213857245213E-6 + z * (-2.50507477628578072866E-8 + z * 1.58962301576546568060E-10)))));
  real c = 1 - z / 2 + z * z * (4.16666666666665929218E-2 + z * (-1.38888888888730564116E-3 + z *
           (2.48015872888517045348E-5 + z * (-2.75573141792967388112E-7 + z * (2.08757008419747316778E-9 +
           z * -1.13585365213876817300E-11)))));
#else
  real s = r + r * z * (-1.6666654611E-1f + z * (8.3321608736E-3f + z * -1.9515295891E-4f));
  real c = 1 - z / 2 + z * z * (4.166664568298827E-2f + z * (-1.388731625493765E-3f + z * 2.443315711809948E-5f));
#endif
  int turn = (int)quarter & 3;
  real a = turn & 1 ? c : s, b = turn & 1 ? s : c;
  *sine = turn & 2 ? -a : a;
  *cosine = turn == 1 || turn == 2 ? -b : b;
}

static void layers_of(const Group *g, long index, Layer *layers) {
  for (long l = 0; l < g->layers; l++) {
    long in = g->widths[l], out = g->widths[l + 1];
    layers[l].inputs = in, layers[l].outputs = out, layers[l].residual = 0;
    layers[l].weight = g->weights[l] + index * in * out;
    layers[l].bias = g->biases[l] + index * out;
    layers[l].weight_gradient = g->weight_gradients && g->weight_gradients[l] ? g->weight_gradients[l] + index * in * out : NULL;
    layers[l].bias_gradient = g->bias_gradients && g->bias_gradients[l] ? g->bias_gradients[l] + index * out : NULL;
  }
}

static long coupling_size(const Stack *s, long index) {
  Layer layers[MOST_LAYERS];
  const Group *g = s->group + index % 2;
  layers_of(g, index / 2, layers);
  return dense_kept_size(s->batch, g->layers, layers) + 2 * s->batch * g->moved;
}

/* Numbers that `to_noise` keeps. */
long kept_size(const Stack *s) {
  long size = 0;
  for (long index = 0; index < s->count; index++) size += coupling_size(s, index);
  return size;
}

/* What a coupling's network sees: the kept columns, bounded, their waves, and the context's features. */
static void inputs_of(const Stack *s, const Group *g, const real *kept, real *x) {
  long k = g->kept, width = padded(g->widths[0]), waves = k * s->octaves;
  real bound = (real)s->bound;
  for (long r = 0; r < s->batch; r++) {
    real *row = x + r * width;
    for (long c = 0; c < k; c++) {
      real v = kept[r * k + c];
      row[c] = v < -bound ? -bound : v > bound ? bound : v;
    }
    for (long c = 0; s->octaves && c < k; c++) {
      long coordinate = g->coordinates[c];
      real turns = (s->phase[r * s->phase_step + coordinate] + s->rate[coordinate] * row[c]) * TURNS(s);
      for (long o = 0; o < s->octaves; o++, turns *= 2) wave(turns, row + k + o * k + c, row + k + waves + o * k + c);
    }
    long at = k + 2 * waves;
    if (s->features) memcpy(row + at, s->feature + r * s->features_step, s->features * sizeof(real));
    at += s->features;
    memset(row + at, 0, (width - at) * sizeof(real));
  }
}

/* The gradient of those inputs, added to that of the kept columns, the phase and the features. */
static void inputs_back(const Stack *s, const Group *g, const real *x, const real *gradient, real *kept_gradient,
                        long D) {
  long k = g->kept, in = g->widths[0], width = padded(in), waves = k * s->octaves;
  for (long r = 0; r < s->batch; r++) {
    const real *row = x + r * width, *up = gradient + r * in;
    for (long c = 0; c < k; c++) {
      real total = up[c];
      if (s->octaves) {
        real turns = 0, octave = (real)(TWO_PI * TURNS(s));
        for (long o = 0; o < s->octaves; o++, octave *= 2) {
          long at = k + o * k + c;
          turns += octave * (row[at + waves] * up[at] - row[at] * up[at + waves]);
        }
        total += s->rate[g->coordinates[c]] * turns;
        if (s->phase_gradient) s->phase_gradient[r * D + g->coordinates[c]] += turns;
      }
      kept_gradient[r * k + c] += fabs(row[c]) < s->bound ? total : 0;
    }
    if (s->feature_gradient) add_to(s->feature_gradient + r * s->features, up + k + 2 * waves, s->features);
  }
}

static void split(const real *from, long step, long batch, long left, long right, real *a, real *b) {
  for (long r = 0; r < batch; r++) {
    memcpy(a + r * left, from + r * step, left * sizeof(real));
    memcpy(b + r * right, from + r * step + left, right * sizeof(real));
  }
}

static void join(const real *a, const real *b, long batch, long left, long right, real *to) {
  for (long r = 0; r < batch; r++) {
    memcpy(to + r * (left + right), a + r * left, left * sizeof(real));
    memcpy(to + r * (left + right) + left, b + r * right, right * sizeof(real));
  }
}

/* moved, the column c of it, to (moved - shift) exp(s). out: the network's (batch, 2 moved). */
INLINE void transform(long batch, long moved, long c, const real *restrict out, real gain, real most,
                      real *restrict value, real *restrict y, real *restrict log_scale, real *restrict log_det) {
  for (long r = 0; r < batch; r++) {
    real t = 2 * sigmoid(2 * out[r * 2 * moved + moved + c] / most) - 1, rest;
    real s = gain + most * t, scale = split_exp(s, &rest);
    real v = (value[r * moved + c] - out[r * 2 * moved + c]) * (scale * rest + scale);
    value[r * moved + c] = v;
    y[r * moved + c] = v;
    log_scale[r * moved + c] = s;
    log_det[r] += s;
  }
}

/* z (batch, D) with rows z_step apart -> out (batch, D), log_det (batch). Returns 1 if there is no memory. */
int to_noise(const Stack *s, const real *z, long z_step, real *kept, real *out, real *log_det) {
  long batch = s->batch, left = s->group[0].kept, right = s->group[0].moved, D = left + right;
  real *half[2], *network = NULL;
  half[0] = malloc(batch * (D + 2 * D) * sizeof(real));
  if (!half[0]) return 1;
  half[1] = half[0] + batch * left, network = half[0] + batch * D;
  split(z, z_step, batch, left, right, half[0], half[1]);
  memset(log_det, 0, batch * sizeof(real));
  for (long index = 0; index < s->count; index++) {
    Layer layers[MOST_LAYERS];
    const Group *g = s->group + index % 2;
    layers_of(g, index / 2, layers);
    long size = dense_kept_size(batch, g->layers, layers), m = g->moved;
    real *y = kept + size, *log_scale = y + batch * m;
    inputs_of(s, g, half[index % 2], kept);
    if (dense_forward(batch, g->layers, layers, s->kind, NULL, 0, kept, network)) {
      free(half[0]);
      return 1;
    }
    for (long c = 0; c < m; c++)
      transform(batch, m, c, network, g->gain[index / 2 * m + c], (real)s->max_log_scale, half[1 - index % 2], y,
                log_scale, log_det);
    kept += size + 2 * batch * m;
  }
  if (s->count % 2)
    join(half[1], half[0], batch, right, left, out);
  else
    join(half[0], half[1], batch, left, right, out);
  free(half[0]);
  return 0;
}

/* The gradient of `transform`: to the network's output, the moved column (in place) and s. */
INLINE void transform_back(long batch, long moved, long c, const real *restrict y, const real *restrict log_scale,
                           real gain, real most, const real *restrict log_det, real *restrict value,
                           real *restrict out, real *restrict to_s) {
  for (long r = 0; r < batch; r++) {
    real s = log_scale[r * moved + c], up = value[r * moved + c], rest, scale = split_exp(s, &rest);
    real opened = up * (scale * rest + scale), total = up * y[r * moved + c] + log_det[r], t = (s - gain) / most;
    to_s[r] = total;
    out[r * 2 * moved + c] = -opened;
    out[r * 2 * moved + moved + c] = total * (1 - t * t);
    value[r * moved + c] = opened;
  }
}

/* Gradients of what `to_noise` gave, (batch, D) and (batch) -> of z, (batch, D), and whatever the stack has room for. */
int to_noise_back(const Stack *s, const real *kept, const real *gradient, const real *log_det_gradient, real *z_gradient) {
  long batch = s->batch, left = s->group[0].kept, right = s->group[0].moved, D = left + right;
  long widest = s->group[0].widths[0];
  if (s->count > 1 && s->group[1].widths[0] > widest) widest = s->group[1].widths[0];
  real *half[2], *network, *to_inputs, *to_s;
  half[0] = malloc(batch * (3 * D + widest + 1) * sizeof(real));
  if (!half[0]) return 1;
  half[1] = half[0] + batch * left, network = half[0] + batch * D, to_inputs = network + batch * 2 * D;
  to_s = to_inputs + batch * widest;
  if (s->count % 2)
    split(gradient, D, batch, right, left, half[1], half[0]);
  else
    split(gradient, D, batch, left, right, half[0], half[1]);
  kept += kept_size(s);
  for (long index = s->count - 1; index >= 0; index--) {
    Layer layers[MOST_LAYERS];
    const Group *g = s->group + index % 2;
    layers_of(g, index / 2, layers);
    long size = dense_kept_size(batch, g->layers, layers), m = g->moved;
    kept -= size + 2 * batch * m;
    const real *y = kept + size, *log_scale = y + batch * m;
    for (long c = 0; c < m; c++) {
      transform_back(batch, m, c, y, log_scale, g->gain[index / 2 * m + c], (real)s->max_log_scale, log_det_gradient,
                     half[1 - index % 2], network, to_s);
      if (!g->gain_gradient) continue;
      real total = 0;
      for (long r = 0; r < batch; r++) total += to_s[r];
      g->gain_gradient[index / 2 * m + c] = total;
    }
    if (dense_backward(batch, g->layers, layers, s->kind, kept, network, to_inputs)) {
      free(half[0]);
      return 1;
    }
    inputs_back(s, g, kept, to_inputs, half[index % 2], D);
  }
  join(half[0], half[1], batch, left, right, z_gradient);
  free(half[0]);
  return 0;
}

long structure_sizes(long which) { return which ? sizeof(Stack) : sizeof(Group); }
