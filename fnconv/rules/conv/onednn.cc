// oneDNN's convolution behind XLA's foreign-function interface: one handler for the three maps.
//
//   x (N, *S, in)    w (*K, in / groups, out)    y (N, *O, out), all row-major, float32 or bfloat16
//
// Activations stay as they are; the kernel is reordered to the layout that oneDNN picks for it, inside the call.
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using dnnl::memory;
using Ints = ffi::Span<const int64_t>;

enum Map : int64_t { FORWARD, INPUT_VJP, WEIGHT_VJP };
constexpr size_t KEPT = 256;  // geometries whose primitives are kept, about 0.2 MB each

struct Program {
  dnnl::primitive convolution, reorder;
  memory::desc x, w, y, w_given, scratchpad;
  bool reorders;
};

struct Geometry {
  int64_t map, groups;
  Ints strides, low, high, dilation;
};

static const dnnl::engine& cpu() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

static memory::data_type type(const ffi::AnyBuffer& b) {
  if (b.element_type() == ffi::DataType::F32) return memory::data_type::f32;
  if (b.element_type() == ffi::DataType::BF16) return memory::data_type::bf16;
  throw std::runtime_error("takes float32 and bfloat16");
}

static memory::dims row_major(const ffi::AnyBuffer& b) {
  memory::dims strides(b.dimensions().size());
  int64_t step = 1;
  for (size_t i = strides.size(); i-- > 0; step *= b.dimensions()[i]) strides[i] = step;
  return strides;
}

// (N, *S, C) under oneDNN's names (N, C, *S)
static memory::desc activations(const ffi::AnyBuffer& b) {
  auto given = b.dimensions();
  auto steps = row_major(b);
  const size_t last = given.size() - 1;
  memory::dims size{given[0], given[last]}, step{steps[0], 1};
  for (size_t i = 1; i < last; ++i) size.push_back(given[i]), step.push_back(steps[i]);
  return {size, type(b), step};
}

// (*K, in / groups, out) under oneDNN's names ([groups,] out / groups, in / groups, *K)
static memory::desc kernel(const ffi::AnyBuffer& b, int64_t groups) {
  auto given = b.dimensions();
  auto steps = row_major(b);
  const size_t axes = given.size() - 2;
  const int64_t in = given[axes], out = given[axes + 1] / groups;
  memory::dims size{groups, out, in}, step{out, 1, given[axes + 1]};
  for (size_t i = 0; i < axes; ++i) size.push_back(given[i]), step.push_back(steps[i]);
  if (groups == 1) size.erase(size.begin()), step.erase(step.begin());
  return {size, type(b), step};
}

static Program compile(const Geometry& g, const ffi::AnyBuffer& x, const ffi::AnyBuffer& w, const ffi::AnyBuffer& y) {
  auto dims = [](Ints v) { return memory::dims(v.begin(), v.end()); };
  Program p{{}, {}, activations(x), {}, activations(y), kernel(w, g.groups), {}, false};
  memory::dims skipped = dims(g.dilation);
  for (auto& d : skipped) --d;  // oneDNN counts the cells between
  memory::desc any(p.w_given.get_dims(), type(w), memory::format_tag::any);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto direct = dnnl::algorithm::convolution_direct;
  const auto strides = dims(g.strides), low = dims(g.low), high = dims(g.high);
  dnnl::convolution_forward::primitive_desc forward(cpu(), dnnl::prop_kind::forward_training, direct, p.x, any, p.y,
                                                    strides, skipped, low, high, attributes);
  auto keep = [&](const auto& desc, auto primitive, const memory::desc& of_w) {
    p.convolution = primitive, p.w = of_w, p.scratchpad = desc.scratchpad_desc();
  };
  if (g.map == FORWARD) {
    keep(forward, dnnl::convolution_forward(forward), forward.weights_desc());
  } else if (g.map == INPUT_VJP) {
    dnnl::convolution_backward_data::primitive_desc d(cpu(), direct, p.x, any, p.y, strides, skipped, low, high,
                                                      forward, attributes);
    keep(d, dnnl::convolution_backward_data(d), d.weights_desc());
  } else {
    dnnl::convolution_backward_weights::primitive_desc d(cpu(), direct, p.x, any, p.y, strides, skipped, low, high,
                                                         forward, attributes);
    keep(d, dnnl::convolution_backward_weights(d), d.diff_weights_desc());
  }
  p.reorders = p.w != p.w_given;
  if (p.reorders) {
    const auto &from = g.map == WEIGHT_VJP ? p.w : p.w_given, &to = g.map == WEIGHT_VJP ? p.w_given : p.w;
    p.reorder = dnnl::reorder(dnnl::reorder::primitive_desc(cpu(), from, cpu(), to));
  }
  return p;
}

static std::shared_ptr<const Program> program(const Geometry& g, const ffi::AnyBuffer& x, const ffi::AnyBuffer& w,
                                              const ffi::AnyBuffer& y) {
  static const auto kept_here_alone = dnnl_set_primitive_cache_capacity(0);
  (void)kept_here_alone;
  static std::mutex lock;
  static std::unordered_map<std::string, std::shared_ptr<const Program>> kept;
  std::string key = std::to_string(g.map) + "," + std::to_string(g.groups) + "," + std::to_string(int(type(x)));
  for (Ints values : {x.dimensions(), w.dimensions(), y.dimensions(), g.strides, g.low, g.high, g.dilation})
    for (int64_t v : values) key += "," + std::to_string(v);
  {
    std::lock_guard<std::mutex> held(lock);
    if (auto found = kept.find(key); found != kept.end()) return found->second;
  }
  auto made = std::make_shared<const Program>(compile(g, x, w, y));
  std::lock_guard<std::mutex> held(lock);
  if (kept.size() >= KEPT) kept.clear();
  kept.emplace(key, made);
  return made;
}

using Block = std::unique_ptr<void, decltype(&std::free)>;

static Block allocate(size_t bytes) {
  Block block(bytes ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr, &std::free);
  if (bytes && !block) throw std::bad_alloc();
  return block;
}

static ffi::Error run(int64_t map, int64_t groups, Ints strides, Ints low, Ints high, Ints dilation, ffi::AnyBuffer a,
                      ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> result) try {
  const ffi::AnyBuffer &x = map == INPUT_VJP ? *result : a, &w = map == WEIGHT_VJP ? *result : b,
                       &y = map == FORWARD ? *result : map == INPUT_VJP ? a : b;
  auto p = program({map, groups, strides, low, high, dilation}, x, w, y);
  Block room = allocate(p->reorders ? p->w.get_size() : 0), scratch = allocate(p->scratchpad.get_size());
  dnnl::stream stream(cpu());
  auto in = [](const memory::desc& d, void* data) { return memory(d, cpu(), data); };
  memory given = in(p->w_given, w.untyped_data()), picked = p->reorders ? in(p->w, room.get()) : given;
  memory mx = in(p->x, x.untyped_data()), my = in(p->y, y.untyped_data()), ms = in(p->scratchpad, scratch.get());
  std::unordered_map<int, memory> arguments{{DNNL_ARG_SCRATCHPAD, ms}};
  auto bind = [&](int of_x, int of_w, int of_y) {
    arguments.insert({{of_x, mx}, {of_w, picked}, {of_y, my}});
  };
  if (map == FORWARD) bind(DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST);
  if (map == INPUT_VJP) bind(DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST);
  if (map == WEIGHT_VJP) bind(DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST);
  if (p->reorders && map != WEIGHT_VJP) p->reorder.execute(stream, {{DNNL_ARG_FROM, given}, {DNNL_ARG_TO, picked}});
  p->convolution.execute(stream, arguments);
  if (p->reorders && map == WEIGHT_VJP) p->reorder.execute(stream, {{DNNL_ARG_FROM, picked}, {DNNL_ARG_TO, given}});
  stream.wait();
  return ffi::Error::Success();
} catch (const std::bad_alloc&) {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "conv: rule \"onednn\": no memory for the kernel's layout");
} catch (const std::exception& e) {
  return ffi::Error::Internal(std::string("conv: rule \"onednn\": ") + e.what());
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(fnconv_onednn, run,
                              ffi::Ffi::Bind()
                                  .Attr<int64_t>("map")
                                  .Attr<int64_t>("groups")
                                  .Attr<Ints>("strides")
                                  .Attr<Ints>("low")
                                  .Attr<Ints>("high")
                                  .Attr<Ints>("dilation")
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());
