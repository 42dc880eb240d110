// What an operator is asked to do: plain data, the same for every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace symconv {

enum Type : int { float32, float64, bfloat16_type, types };
enum Index : int { uint16, int32, int64, indices };

// A local correlation over three axes of space (fewer are led by axes of size one).
//
//     y[b, g o + p, l] = bias + sum over taps t, channels i of
//                        x[b, g c + i, stride l + dilation t - before] * w[label[l], t, i, g o + p]
struct Local {
  int64_t batch, groups, c, o;  // c and o: channels of one group
  int64_t filters;
  int64_t size[3], out[3], kernel[3], stride[3], dilation[3], before[3];
  int64_t x_strides[5];  // batch, channel, space; in elements
  int64_t y_strides[2];  // batch, channel; positions of y are contiguous
  const void *x, *w, *y, *bias;  // what is read; bias (channels, positions) or null
  const int64_t* labels;         // null: the filter of position l is l
  void* result;                  // y, x (contiguous) or w (contiguous)

  // Planned:
  int64_t reach[3];   // positions of the padded input that the windows touch
  int64_t positions;  // of the output
  bool batch_in_lanes;
  int64_t panels, panel, last;  // the batch is laid out in panels of a width, the last of its own
  int64_t block;      // output positions that are worked on together
  int64_t slices;     // of the input, in the gradient to it
  int64_t bytes_shared, bytes_worker;  // scratch
  char *shared, *worker;
};

// A sparse product, in which each output sees as many chosen inputs.
//
//     y[b, o] = bias[o] + sum over k < fan_in of x[b, index[o, k]] * w[o, k]
struct Sparse {
  int64_t batch, inputs, outputs, fan_in;
  int64_t x_strides[2], y_strides[2];  // batch, feature; in elements
  const void *x, *w, *y, *bias;        // what is read; w contiguous, bias or null
  const void* index;                   // contiguous
  void* result;                        // y, x or w, contiguous

  // Planned:
  int64_t vectors, width;  // of a slice of the batch; width in elements
  int64_t slices;
  int64_t rows, chunks;    // outputs that are one task, and how many tasks
  int64_t block;           // outputs whose gradient to the weight is made together
  int64_t copies;          // of the gradient to the input
  bool in_place;           // x is read where it lies
  bool past;               // the gradient to the weight goes around the caches
  int64_t bytes_laid, bytes_shared, bytes_worker;  // scratch
  char *shared, *worker;
};

}  // namespace symconv
