// Pillow's bicubic resize of 8-bit RGB pictures, and CLIP's normalisation, equal to the bit.
//
// A resize has two passes, along x and along y; for some tall pictures, y comes first. The weights
// are those of clipfleet.workers.images.bicubic: int32 (side, 2) windows, then int32 (side, length)
// weights. `python -m clipfleet.workers.engines.cuda.compile_resize` makes resize.ptx of this file.

typedef unsigned char u8;

struct Picture {  // numbers of 64 bits, in the order of `resize.py`
    const u8 *pixels;  // uint8 (height, width, 3)
    u8 *buffer;        // uint8, what the first pass makes: (height, side, 3) or (side, width, 3)
    const int *x_weights, *y_weights;
    long long x_length, y_length;  // of the windows
    long long width, height, y_first;
};

struct Sum {
    int red, green, blue;
};

__device__ __forceinline__ int to_8_bits(int sum) {
    sum >>= 22;
    return sum < 0 ? 0 : sum > 255 ? 255 : sum;
}

// Sum the pixels of a window; `step` is the distance of its pixels, `origin` that of pixel 0.
__device__ __forceinline__ Sum weighted(
    const u8 *origin, size_t step, const int *table, int side, int length, int target
) {
    const int first = table[2 * target], count = table[2 * target + 1];
    const int *weights = table + 2 * side + target * length;
    const u8 *pixel = origin + first * step;
    Sum sum = {1 << 21, 1 << 21, 1 << 21};
    for (int k = 0; k < count; k++, pixel += step) {
        sum.red += pixel[0] * weights[k];
        sum.green += pixel[1] * weights[k];
        sum.blue += pixel[2] * weights[k];
    }
    sum = {to_8_bits(sum.red), to_8_bits(sum.green), to_8_bits(sum.blue)};
    return sum;
}

// From a picture's pixels to its buffer; blockIdx.y is the picture.
extern "C" __global__ void first_pass(const Picture *pictures, int side) {
    const Picture picture = pictures[blockIdx.y];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const int width = picture.width, columns = picture.y_first ? width : side;
    const int row = i / columns, column = i % columns;
    if (row >= (picture.y_first ? side : picture.height)) return;
    const Sum sum =
        picture.y_first
            ? weighted(picture.pixels + 3 * column, 3 * (size_t)width, picture.y_weights, side,
                       picture.y_length, row)
            : weighted(picture.pixels + 3 * (size_t)row * width, 3, picture.x_weights, side,
                       picture.x_length, column);
    u8 *out = picture.buffer + 3 * (size_t)i;
    out[0] = sum.red;
    out[1] = sum.green;
    out[2] = sum.blue;
}

__device__ __forceinline__ float normalised(int level, float mean, float deviation) {
    return __fdiv_rn(__fsub_rn(__fdiv_rn((float)level, 255.0f), mean), deviation);
}

// From a picture's buffer to its row of `inputs`, float32 (3, side, side).
extern "C" __global__ void second_pass(const Picture *pictures, int side, float *inputs) {
    const Picture picture = pictures[blockIdx.y];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= side * side) return;
    const int row = i / side, column = i % side;
    const Sum sum =
        picture.y_first
            ? weighted(picture.buffer + 3 * (size_t)row * picture.width, 3, picture.x_weights, side,
                       picture.x_length, column)
            : weighted(picture.buffer + 3 * column, 3 * (size_t)side, picture.y_weights, side,
                       picture.y_length, row);
    const size_t plane = (size_t)side * side;
    float *out = inputs + 3 * plane * blockIdx.y + i;
    out[0] = normalised(sum.red, 0.48145466f, 0.26862954f);
    out[plane] = normalised(sum.green, 0.4578275f, 0.26130258f);
    out[2 * plane] = normalised(sum.blue, 0.40821073f, 0.27577711f);
}
