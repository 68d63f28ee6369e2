/* DCT-II and DCT-III by an int16 matrix: exact to define, any n, one rounding per value. */
#include "se_core.h"

static int32_t rounded(int64_t sum, int shift) {
    const int64_t v = (sum + ((int64_t)1 << (shift - 1))) >> shift;
    return v > INT32_MAX ? INT32_MAX : v < INT32_MIN ? INT32_MIN : (int32_t)v;
}

/* y[k*step] = sum_i m[k*row + i*column] * x[i] */
static void multiply(const int16_t *m, int n, int row, int column, const int32_t *x, int shift,
                     int32_t *y, int step) {
    for (int k = 0; k < n; k++) {
        int64_t sum = 0;
        for (int i = 0; i < n; i++) sum += (int64_t)m[k * row + i * column] * x[i];
        y[k * step] = rounded(sum, shift);
    }
}

void se_dct_forward(const int16_t *matrix, int n, const int32_t *x, int shift, int32_t *y) {
    multiply(matrix, n, n, 1, x, shift, y, 1);
}

void se_dct_inverse(const int16_t *matrix, int n, const int32_t *x, int shift, int32_t *y) {
    multiply(matrix, n, 1, n, x, shift, y, 1);
}

/* Each pass transforms the rows and writes them as columns, so two passes do both axes. */
static void both(const int16_t *matrix, int n, int row, int column, int row_shift,
                 int column_shift, int32_t *block, int32_t *work) {
    for (int i = 0; i < n; i++) multiply(matrix, n, row, column, block + i * n, row_shift, work + i, n);
    for (int i = 0; i < n; i++) multiply(matrix, n, row, column, work + i * n, column_shift, block + i, n);
}

void se_dct_forward_2d(const int16_t *matrix, int n, int row_shift, int column_shift,
                       int32_t *block, int32_t *work) {
    both(matrix, n, n, 1, row_shift, column_shift, block, work);
}

void se_dct_inverse_2d(const int16_t *matrix, int n, int row_shift, int column_shift,
                       int32_t *block, int32_t *work) {
    both(matrix, n, 1, n, row_shift, column_shift, block, work);
}
