// The thin door between Python and the engine: addresses are integers, arguments are dictionaries checked by name.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "engine/guard.h"
#include "engine/plan.h"

namespace nb = nanobind;
using namespace dovetail;

namespace {

const KernelInfo& info_of(const std::string& kernel, size_t* index) {
  size_t count;
  const KernelInfo* infos = kernel_infos(&count);
  for (*index = 0; *index < count; ++*index)
    if (kernel == infos[*index].name) return infos[*index];
  throw nb::value_error(("unknown kernel " + kernel).c_str());
}

const IsaTable& table_of(const std::string& isa) {
  const IsaTable* table = isa_table(isa.c_str());
  if (!table) throw nb::value_error(("this CPU or build has no ISA " + isa).c_str());
  return *table;
}

template <class T>
void write(std::vector<unsigned char>& bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

void write_field(std::vector<unsigned char>& bytes, const Field& field, nb::handle value) {
  switch (field.kind) {
    case FieldKind::pointer: write(bytes, field.offset, nb::cast<uintptr_t>(value)); break;
    case FieldKind::integer: write(bytes, field.offset, nb::cast<int64_t>(value)); break;
    case FieldKind::real: write(bytes, field.offset, nb::cast<float>(value)); break;
    case FieldKind::array: {
      const auto values = nb::cast<std::vector<int64_t>>(value);
      if (values.size() != field.count) throw nb::value_error((std::string(field.name) + " has the wrong length").c_str());
      for (size_t i = 0; i < field.count; ++i) write(bytes, field.offset + 8 * i, values[i]);
    }
  }
}

// The arguments of a kernel as it takes them. Fields that are not given are zero; a name that the kernel does not have is an
// error.
std::vector<unsigned char> arguments_of(const KernelInfo& info, nb::dict arguments) {
  std::vector<unsigned char> bytes(info.size, 0);
  size_t used = 0;
  for (size_t i = 0; i < info.field_count; ++i) {
    const Field& field = info.fields[i];
    if (!arguments.contains(field.name)) continue;
    write_field(bytes, field, arguments[field.name]);
    ++used;
  }
  if (used != arguments.size()) throw nb::value_error((std::string("arguments of ") + info.name + " that it does not have").c_str());
  return bytes;
}

nb::bytes arguments(const std::string& kernel, nb::dict arguments) {
  size_t index;
  const auto bytes = arguments_of(info_of(kernel, &index), arguments);
  return nb::bytes(bytes.data(), bytes.size());
}

nb::dict offsets(const std::string& kernel) {
  size_t index;
  const KernelInfo& info = info_of(kernel, &index);
  nb::dict found;
  for (size_t i = 0; i < info.field_count; ++i) found[info.fields[i].name] = info.fields[i].offset;
  return found;
}

void add_step(Plan& plan, const std::string& isa, const std::string& kernel, nb::dict arguments, nb::dict slots, bool barrier, bool serial) {
  size_t index, bound = 0;
  const KernelInfo& info = info_of(kernel, &index);
  const auto bytes = arguments_of(info, arguments);
  plan.add(table_of(isa), index, bytes.data(), bytes.size(), barrier, serial);
  for (size_t i = 0; i < info.field_count; ++i) {
    const Field& field = info.fields[i];
    if (!slots.contains(field.name)) continue;
    if (field.kind != FieldKind::pointer) throw nb::value_error("only pointers can be bound to slots");
    plan.bind(field.offset, nb::cast<int>(slots[field.name]));
    ++bound;
  }
  if (bound != slots.size()) throw nb::value_error(("slots of " + kernel + " that it does not have").c_str());
}

// The addresses in a list, in memory that each calling thread keeps.
const std::vector<uintptr_t>& addresses(nb::list slots) {
  thread_local std::vector<uintptr_t> found;
  found.clear();
  for (nb::handle slot : slots) found.push_back(nb::cast<uintptr_t>(slot));
  return found;
}

std::vector<int64_t> run_timed(Plan& plan, Pool& pool, nb::list slots) {
  const auto& found = addresses(slots);
  std::vector<int64_t> nanoseconds(plan.size());
  nb::gil_scoped_release release;
  plan.run(pool, found, nanoseconds.data());
  return nanoseconds;
}

void run(Plan& plan, Pool& pool, nb::list slots) {
  const auto& found = addresses(slots);
  nb::gil_scoped_release release;
  plan.run(pool, found);
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const char* name : {"portable", "avx2", "avx512", "avx512vnni"})
    if (isa_table(name)) names.emplace_back(name);
  return names;
}

std::vector<std::string> kernels() {
  size_t count;
  const KernelInfo* infos = kernel_infos(&count);
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) names.emplace_back(infos[i].name);
  return names;
}

void trim_memory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace

NB_MODULE(_native, m) {
  nb::class_<Pool>(m, "Pool")
      .def(nb::init<int>(), nb::arg("threads"))
      .def_prop_ro("threads", &Pool::threads)
      .def_prop_ro("here", &Pool::here, "Whether its workers are in this process; a forked child has none.");
  nb::class_<Plan>(m, "Plan")
      .def(nb::init<>())
      .def("add", &add_step, nb::arg("isa"), nb::arg("kernel"), nb::arg("arguments"), nb::arg("slots"), nb::arg("barrier"), nb::arg("serial"))
      .def("reserve_scratch", &Plan::reserve_scratch, nb::arg("floats"))
      .def("run", &run, nb::arg("pool"), nb::arg("slots"))
      .def("run_timed", &run_timed, nb::arg("pool"), nb::arg("slots"))
      .def("arrive_late", &Plan::arrive_late, "Call every step as a thread that comes when the run is over. For tests.")
      .def("kernels", &Plan::kernels, "What each step calls: dovetail_<op>_<format>_<values>__<isa>.")
      .def("__len__", &Plan::size);
  m.def("isas", &isas, "Names of the ISAs that this build has and this CPU can run, slowest first.");
  m.def("kernels", &kernels, "Names of all kernels.");
  m.def("arguments", &arguments, nb::arg("kernel"), nb::arg("arguments"), "The arguments of a kernel, as it takes them.");
  m.def("offsets", &offsets, nb::arg("kernel"), "Where in its arguments each field of a kernel lies, in bytes.");
  m.def("trim_memory", &trim_memory, "Give what was freed back to the system, as far as the C library can.");
  m.def("lanes", [](const std::string& isa) { return table_of(isa).lanes; }, nb::arg("isa"), "Floats in a vector.");
#ifdef DOVETAIL_SANITIZE
  m.def("guard", [](uintptr_t p, size_t bytes) { guard(reinterpret_cast<void*>(p), bytes); }, nb::arg("address"), nb::arg("bytes"));
  m.def("unguard", [](uintptr_t p, size_t bytes) { unguard(reinterpret_cast<void*>(p), bytes); }, nb::arg("address"), nb::arg("bytes"));
#endif
}
