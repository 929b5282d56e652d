/* One row of cached sampling of PixelCNN++, for some of a batch's images: what ActivationCache and PixelDistribution do,
 * on the same buffers. Images do not depend on each other, so that threads share nothing.
 */
#include "horizontal.h"
#include "mixture.h"

static long most(long a, long b) { return a > b ? a : b; }

/* Images first .. first + count - 1 of a row: begun, drawn pixel by pixel, and handed on to the row below.
 * row: among all that the network sees, image_row: of the image, which may stand below another.
 * places: which of the two rows of the vertical stream's buffers is the current one, for every resolution.
 * Returns 0, or 1 if there is no memory.
 */
int sample_row(const Plan *p, const Request *request, long first, long count, long row, long image_row,
               const long *places) {
  long n = p->filters, K = p->components, C = p->channels, width = p->level->width;
  long active = 0;
  while (active + 1 < p->levels && row % (2L << active) == 0) active++;
  Scratch s;
  s.n_step = padded(n), s.two_step = padded(2 * n), s.six_step = most(padded(6 * n), padded(p->size));
  long rows = most(width + 1, count), each = s.n_step * 2 + s.two_step + s.six_step;
  real *memory = calloc(rows * each + 2 * C, sizeof(real));
  double *room = calloc(6 * K, sizeof(double));
  if (!memory || !room) {
    free(memory);
    free(room);
    return 1;
  }
  s.value = memory, s.hidden = s.value + rows * s.n_step, s.gates = s.hidden + rows * s.n_step;
  s.six = s.gates + rows * s.two_step;
  real *y = s.six + rows * s.six_step;
  for (long image = first; image < first + count; image++) begin_row(p, image, row, active, places, &s);
  memset(memory, 0, rows * each * sizeof(real));
  for (long j = 0; j < width; j++) {
    pixel(p, first, count, j, active, &s);
    for (long i = 0; i < count; i++) {
      long image = first + i, at = ((image * p->height + image_row) * width + j) * C;
      const real *raw = s.six + i * s.six_step;
      if (request->raws) memcpy(request->raws + (image * width + j) * p->size, raw, p->size * sizeof(real));
      draw(p, raw, request->logit_u + at, request->known ? request->known + at : NULL,
           request->values ? request->values + at : NULL, request->image + at, y, room);
      for (long c = 0; c < C; c++) p->seen[((image * (C + 1) + c) * 3 + 2) * (width + 2) + j + 1] = y[c];
    }
  }
  for (long image = first; image < first + count; image++) end_row(p, image, active, &s);
  free(memory);
  free(room);
  return 0;
}

long structure_sizes(long which) {
  switch (which) {
    case 0: return sizeof(VerticalBlock);
    case 1: return sizeof(HorizontalBlock);
    case 2: return sizeof(Level);
    case 3: return sizeof(Plan);
    default: return sizeof(Request);
  }
}
