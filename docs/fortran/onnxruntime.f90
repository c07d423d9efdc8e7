!> The few calls of ONNX Runtime's C interface that run a model, by iso_c_binding: no C compiler, no headers.
!!
!! The library exports one function, OrtGetApiBase, which hands out a table of function pointers (struct OrtApi in
!! onnxruntime_c_api.h). Its entries never move: a new version adds to the end. The positions below count from 0.
module onnxruntime
   use, intrinsic :: iso_c_binding
   use, intrinsic :: iso_fortran_env, only: error_unit, real32, int64
   implicit none
   private
   public :: model, load, run

   integer(c_int32_t), parameter :: api_version = 11   ! what the calls below need; any later library serves it
   integer, parameter :: get_error_message = 2, create_env = 3, create_session = 7, run_session = 9, &
                         create_session_options = 10, set_intra_op_num_threads = 24, create_tensor_with_data = 49, &
                         get_tensor_mutable_data = 51, get_tensor_shape_element_count = 64, &
                         get_tensor_type_and_shape = 65, create_cpu_memory_info = 69, release_value = 96, &
                         release_type_and_shape = 99, table_size = 102
   integer(c_int), parameter :: float32 = 1, int64_type = 7   ! ONNXTensorElementDataType
   integer(c_int), parameter :: warnings = 2, device_allocator = 0, default_memory = 0

   type :: model
      type(c_ptr) :: session = c_null_ptr, memory = c_null_ptr
   end type model

   type, bind(c) :: api_base
      type(c_funptr) :: get_api, get_version_string
   end type api_base

   type(c_funptr), pointer :: table(:) => null()

   abstract interface
      function get_api_t(version) bind(c)
         import
         integer(c_int32_t), value :: version
         type(c_ptr) :: get_api_t
      end function get_api_t
      function message_t(status) bind(c)
         import
         type(c_ptr), value :: status
         type(c_ptr) :: message_t
      end function message_t
      function create_env_t(level, name, env) bind(c)
         import
         integer(c_int), value :: level
         character(kind=c_char), intent(in) :: name(*)
         type(c_ptr), intent(out) :: env
         type(c_ptr) :: create_env_t
      end function create_env_t
      function create_t(object) bind(c)
         import
         type(c_ptr), intent(out) :: object
         type(c_ptr) :: create_t
      end function create_t
      function set_threads_t(options, threads) bind(c)
         import
         type(c_ptr), value :: options
         integer(c_int), value :: threads
         type(c_ptr) :: set_threads_t
      end function set_threads_t
      function create_session_t(env, path, options, session) bind(c)
         import
         type(c_ptr), value :: env, options
         character(kind=c_char), intent(in) :: path(*)
         type(c_ptr), intent(out) :: session
         type(c_ptr) :: create_session_t
      end function create_session_t
      function memory_info_t(allocator, kind, memory) bind(c)
         import
         integer(c_int), value :: allocator, kind
         type(c_ptr), intent(out) :: memory
         type(c_ptr) :: memory_info_t
      end function memory_info_t
      function create_tensor_t(memory, data, bytes, shape, rank, element, tensor) bind(c)
         import
         type(c_ptr), value :: memory, data
         integer(c_size_t), value :: bytes, rank
         integer(c_int64_t), intent(in) :: shape(*)
         integer(c_int), value :: element
         type(c_ptr), intent(out) :: tensor
         type(c_ptr) :: create_tensor_t
      end function create_tensor_t
      function run_t(session, options, input_names, inputs, n_inputs, output_names, n_outputs, outputs) bind(c)
         import
         type(c_ptr), value :: session, options
         type(c_ptr), intent(in) :: input_names(*), inputs(*), output_names(*)
         integer(c_size_t), value :: n_inputs, n_outputs
         type(c_ptr), intent(inout) :: outputs(*)
         type(c_ptr) :: run_t
      end function run_t
      function from_tensor_t(tensor, found) bind(c)
         import
         type(c_ptr), value :: tensor
         type(c_ptr), intent(out) :: found
         type(c_ptr) :: from_tensor_t
      end function from_tensor_t
      function count_t(shape, count) bind(c)
         import
         type(c_ptr), value :: shape
         integer(c_size_t), intent(out) :: count
         type(c_ptr) :: count_t
      end function count_t
      subroutine release_t(object) bind(c)
         import
         type(c_ptr), value :: object
      end subroutine release_t
   end interface

   interface
      function ort_get_api_base() bind(c, name="OrtGetApiBase")
         import
         type(c_ptr) :: ort_get_api_base
      end function ort_get_api_base
      function strlen(text) bind(c)
         import
         type(c_ptr), value :: text
         integer(c_size_t) :: strlen
      end function strlen
   end interface

contains

   !> Return the model in an ONNX file, to be run by so many threads.
   function load(path, threads) result(loaded)
      character(*), intent(in) :: path
      integer, intent(in) :: threads
      type(model) :: loaded
      type(c_ptr) :: env, options
      type(api_base), pointer :: base
      procedure(get_api_t), pointer :: get_api
      procedure(create_env_t), pointer :: new_env
      procedure(create_t), pointer :: new_options
      procedure(set_threads_t), pointer :: set_threads
      procedure(create_session_t), pointer :: new_session
      procedure(memory_info_t), pointer :: new_memory
      type(c_ptr) :: found

      call c_f_pointer(ort_get_api_base(), base)
      call c_f_procpointer(base%get_api, get_api)
      found = get_api(api_version)
      if (.not. c_associated(found)) error stop "onnxruntime: the library is older than 1.11"
      call c_f_pointer(found, table, [table_size])
      call c_f_procpointer(entry(create_env), new_env)
      call c_f_procpointer(entry(create_session_options), new_options)
      call c_f_procpointer(entry(set_intra_op_num_threads), set_threads)
      call c_f_procpointer(entry(create_session), new_session)
      call c_f_procpointer(entry(create_cpu_memory_info), new_memory)
      call check(new_env(warnings, "fortran"//c_null_char, env))
      call check(new_options(options))
      call check(set_threads(options, int(threads, c_int)))
      call check(new_session(env, trim(path)//c_null_char, options, loaded%session))
      call check(new_memory(device_allocator, default_memory, loaded%memory))
   end function load

   !> Run an exported encoder.
   !!
   !! Fortran runs its first index fastest, C its last: the extents below are those of the description in the file's
   !! .json, turned round.
   subroutine run(encoder, fields, seconds, features)
      type(model), intent(in) :: encoder
      real(real32), intent(in), target, contiguous :: fields(:, :, :, :, :)   ! column, row, variable, step, window
      integer(int64), intent(in), target, contiguous :: seconds(:, :)         ! step, window
      real(real32), intent(out), target, contiguous :: features(:, :)         ! feature, window
      character(kind=c_char, len=9), target :: names(3)
      type(c_ptr) :: inputs(2), outputs(1), info, data
      integer(c_size_t) :: count
      procedure(run_t), pointer :: session_run
      procedure(from_tensor_t), pointer :: data_of, shape_of
      procedure(count_t), pointer :: count_of
      procedure(release_t), pointer :: free, free_info
      real(real32), pointer :: result(:)

      call c_f_procpointer(entry(run_session), session_run)
      call c_f_procpointer(entry(get_tensor_mutable_data), data_of)
      call c_f_procpointer(entry(get_tensor_type_and_shape), shape_of)
      call c_f_procpointer(entry(get_tensor_shape_element_count), count_of)
      call c_f_procpointer(entry(release_value), free)
      call c_f_procpointer(entry(release_type_and_shape), free_info)
      names = ["fields"//repeat(c_null_char, 3), "seconds"//repeat(c_null_char, 2), "features"//c_null_char]
      inputs(1) = tensor(encoder, c_loc(fields), 4_c_size_t*size(fields), shape_c(int(shape(fields), c_int64_t)), float32)
      inputs(2) = tensor(encoder, c_loc(seconds), 8_c_size_t*size(seconds), &
                         shape_c(int(shape(seconds), c_int64_t)), int64_type)
      outputs = c_null_ptr
      call check(session_run(encoder%session, c_null_ptr, [c_loc(names(1)), c_loc(names(2))], inputs, 2_c_size_t, &
                             [c_loc(names(3))], 1_c_size_t, outputs))
      call check(shape_of(outputs(1), info))
      call check(count_of(info, count))
      call free_info(info)
      if (count /= size(features)) then
         write (error_unit, "(a,i0,a,i0)") "run: expected room for ", count, " features, got ", size(features)
         error stop 1
      end if
      call check(data_of(outputs(1), data))
      call c_f_pointer(data, result, [count])
      features = reshape(result, shape(features))
      call free(outputs(1))
      call free(inputs(1))
      call free(inputs(2))
   end subroutine run

   !> Return extents in C's order.
   pure function shape_c(extents) result(turned)
      integer(c_int64_t), intent(in) :: extents(:)
      integer(c_int64_t) :: turned(size(extents))
      turned = extents(size(extents):1:-1)
   end function shape_c

   function tensor(encoder, data, bytes, extents, element) result(made)
      type(model), intent(in) :: encoder
      type(c_ptr), intent(in) :: data
      integer(c_size_t), intent(in) :: bytes
      integer(c_int64_t), intent(in) :: extents(:)
      integer(c_int), intent(in) :: element
      type(c_ptr) :: made
      procedure(create_tensor_t), pointer :: new_tensor
      call c_f_procpointer(entry(create_tensor_with_data), new_tensor)
      call check(new_tensor(encoder%memory, data, bytes, extents, size(extents, kind=c_size_t), element, made))
   end function tensor

   function entry(position)
      integer, intent(in) :: position
      type(c_funptr) :: entry
      entry = table(position + 1)
   end function entry

   !> Stop with the library's own message where a call failed.
   subroutine check(status)
      type(c_ptr), intent(in) :: status
      procedure(message_t), pointer :: message
      character(kind=c_char), pointer :: text(:)
      type(c_ptr) :: found
      if (.not. c_associated(status)) return
      call c_f_procpointer(entry(get_error_message), message)
      found = message(status)
      call c_f_pointer(found, text, [strlen(found)])
      write (error_unit, *) "onnxruntime: ", text
      error stop 1
   end subroutine check

end module onnxruntime
