// The part of onnxruntime's C ABI that the probe calls.
//
// The runtime's packages carry no headers, and the ABI is made to be used without matching ones: OrtApiBase is the
// one exported entry, and OrtApi is a table of functions that only ever grows at its end, so a function's slot never
// changes. The slots below are the positions in that table; the tests run every one of them against the real library.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekit::ort {

// Opaque on this side of the ABI.
struct Env;
struct Status;  // null is success
struct MemoryInfo;
struct IoBinding;
struct Session;
struct Value;
struct RunOptions;
struct SessionOptions;
struct Allocator;
struct KeyValuePairs;

// Values fixed by the ABI.
enum class LoggingLevel : int { kError = 3 };
enum class OptimizationLevel : int { kAll = 99 };
enum class ExecutionMode : int { kSequential = 0 };
enum class AllocatorType : int { kDevice = 0 };
enum class MemoryType : int { kDefault = 0 };
enum class Element : int { kFloat = 1, kInt32 = 6, kInt64 = 7, kFloat16 = 10 };

// The table is asked for as of this version (1.16): every slot below is older, and older runtimes lack the operators.
inline constexpr std::uint32_t kApiVersion = 16;
// Since this version (1.23) an allocator tells what it has handed out.
inline constexpr std::uint32_t kStatsApiVersion = 23;

using Table = void* const*;

struct ApiBase {
  Table (*get_api)(std::uint32_t version);
  const char* (*version)();
};

// A function of the table: slot and signature together, so that a call cannot pair one with the other's.
template <std::size_t Slot, typename Function>
struct Entry;

template <std::size_t Slot, typename Result, typename... Args>
struct Entry<Slot, Result(Args...)> {
  Result (*call)(Args...) = nullptr;

  void bind(Table table) { call = reinterpret_cast<Result (*)(Args...)>(table[Slot]); }
  Result operator()(Args... args) const { return call(args...); }
  explicit operator bool() const { return call != nullptr; }
};

struct Api {
  Entry<2, const char*(const Status*)> get_error_message;
  Entry<3, Status*(LoggingLevel, const char* log_id, Env**)> create_env;
  Entry<7, Status*(const Env*, const char* path, const SessionOptions*, Session**)> create_session;
  Entry<10, Status*(SessionOptions**)> create_session_options;
  Entry<13, Status*(SessionOptions*, ExecutionMode)> set_session_execution_mode;
  Entry<14, Status*(SessionOptions*, const char* prefix)> enable_profiling;
  Entry<17, Status*(SessionOptions*)> disable_mem_pattern;
  Entry<19, Status*(SessionOptions*)> disable_cpu_mem_arena;
  Entry<22, Status*(SessionOptions*, int level)> set_session_log_severity_level;
  Entry<23, Status*(SessionOptions*, OptimizationLevel)> set_session_graph_optimization_level;
  Entry<24, Status*(SessionOptions*, int threads)> set_intra_op_num_threads;
  Entry<25, Status*(SessionOptions*, int threads)> set_inter_op_num_threads;
  Entry<39, Status*(RunOptions**)> create_run_options;
  Entry<46, Status*(RunOptions*)> run_options_set_terminate;
  Entry<49, Status*(const MemoryInfo*, void* data, std::size_t bytes, const std::int64_t* shape, std::size_t rank,
                    Element, Value**)>
      create_tensor_with_data;
  Entry<69, Status*(AllocatorType, MemoryType, MemoryInfo**)> create_cpu_memory_info;
  Entry<76, Status*(Allocator*, void*)> allocator_free;
  Entry<78, Status*(Allocator**)> get_allocator_with_default_options;
  Entry<92, void(Env*)> release_env;
  Entry<93, void(Status*)> release_status;
  Entry<94, void(MemoryInfo*)> release_memory_info;
  Entry<95, void(Session*)> release_session;
  Entry<96, void(Value*)> release_value;
  Entry<97, void(RunOptions*)> release_run_options;
  Entry<100, void(SessionOptions*)> release_session_options;
  Entry<110, Status*(Session*, Allocator*, char** file)> session_end_profiling;
  Entry<130, Status*(SessionOptions*, const char* key, const char* value)> add_session_config_entry;
  Entry<131, Status*(const Session*, const MemoryInfo*, Allocator**)> create_allocator;
  Entry<132, void(Allocator*)> release_allocator;
  Entry<133, Status*(Session*, const RunOptions*, const IoBinding*)> run_with_binding;
  Entry<134, Status*(Session*, IoBinding**)> create_io_binding;
  Entry<135, void(IoBinding*)> release_io_binding;
  Entry<136, Status*(IoBinding*, const char* name, const Value*)> bind_input;
  Entry<137, Status*(IoBinding*, const char* name, const Value*)> bind_output;
  Entry<165, Status*(RunOptions*, const char* key, const char* value)> add_run_config_entry;
  Entry<228, Status*(SessionOptions*, const char* path)> register_custom_ops_library;

  // Unset where the runtime is too old for them.
  Entry<297, const char*(const KeyValuePairs*, const char* key)> get_key_value;
  Entry<300, void(KeyValuePairs*)> release_key_value_pairs;
  Entry<319, Status*(const Allocator*, KeyValuePairs**)> allocator_get_stats;

  // `stats` is the table as of kStatsApiVersion, or null.
  Api(Table table, Table stats) {
    get_error_message.bind(table);
    create_env.bind(table);
    create_session.bind(table);
    create_session_options.bind(table);
    set_session_execution_mode.bind(table);
    enable_profiling.bind(table);
    disable_mem_pattern.bind(table);
    disable_cpu_mem_arena.bind(table);
    set_session_log_severity_level.bind(table);
    set_session_graph_optimization_level.bind(table);
    set_intra_op_num_threads.bind(table);
    set_inter_op_num_threads.bind(table);
    create_run_options.bind(table);
    run_options_set_terminate.bind(table);
    create_tensor_with_data.bind(table);
    create_cpu_memory_info.bind(table);
    allocator_free.bind(table);
    get_allocator_with_default_options.bind(table);
    release_env.bind(table);
    release_status.bind(table);
    release_memory_info.bind(table);
    release_session.bind(table);
    release_value.bind(table);
    release_run_options.bind(table);
    release_session_options.bind(table);
    session_end_profiling.bind(table);
    add_session_config_entry.bind(table);
    create_allocator.bind(table);
    release_allocator.bind(table);
    run_with_binding.bind(table);
    create_io_binding.bind(table);
    release_io_binding.bind(table);
    bind_input.bind(table);
    bind_output.bind(table);
    add_run_config_entry.bind(table);
    register_custom_ops_library.bind(table);
    if (stats) {
      get_key_value.bind(stats);
      release_key_value_pairs.bind(stats);
      allocator_get_stats.bind(stats);
    }
  }
};

}  // namespace edgekit::ort
