!> Raw fields to features: embed MODEL.onnx FIELDS.bin FEATURES.bin
!!
!! FIELDS.bin is a stream: five 32-bit integers (columns, rows, variables, steps, windows), the number of features as
!! a sixth, the seconds since 1970-01-01 UTC of every step (64-bit integers), the fields (32-bit reals, column fastest).
!! FEATURES.bin gets the features, 32-bit reals, feature fastest. A model would fill the arrays from its own state.
program embed
   use, intrinsic :: iso_fortran_env, only: int32, int64, real32
   use onnxruntime, only: model, load, run
   implicit none
   integer(int32) :: sizes(6)
   real(real32), allocatable :: fields(:, :, :, :, :), features(:, :)
   integer(int64), allocatable :: seconds(:, :)
   character(4096) :: paths(3)
   type(model) :: encoder
   integer :: k, unit

   if (command_argument_count() /= 3) error stop "usage: embed MODEL.onnx FIELDS.bin FEATURES.bin"
   do k = 1, 3
      call get_command_argument(k, paths(k))
   end do
   open (newunit=unit, file=trim(paths(2)), access="stream", form="unformatted", status="old", action="read")
   read (unit) sizes
   allocate (seconds(sizes(4), sizes(5)), features(sizes(6), sizes(5)))
   allocate (fields(sizes(1), sizes(2), sizes(3), sizes(4), sizes(5)))
   read (unit) seconds, fields
   close (unit)

   encoder = load(paths(1), threads=1)
   call run(encoder, fields, seconds, features)

   open (newunit=unit, file=trim(paths(3)), access="stream", form="unformatted", status="replace", action="write")
   write (unit) features
   close (unit)
   print "(a,i0,a,i0,a)", "embedded ", size(features, 2), " windows into ", size(features, 1), " features each"
end program embed
