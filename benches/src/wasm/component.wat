;; The same work under wasm-host/wit/function.wit: it copies its input and emits the copy on tag 32.
(component
  (import "selvedge:function/output@0.1.0" (instance $output
    (export "emit" (func (param "tag" u32) (param "payload" (list u8))))))
  (core module $libc
    (memory (export "memory") 3)
    ;; The list of observed tags: one, 16.
    (data (i32.const 128) "\88\00\00\00\01\00\00\00\10\00\00\00")
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $libc (instantiate $libc))
  (core func $emit (canon lower (func $output "emit") (memory (core memory $libc "memory"))))
  (core module $m
    (import "libc" "memory" (memory 3))
    (import "host" "emit" (func $emit (param i32 i32 i32)))
    (func (export "observe") (result i32) (i32.const 128))
    (func (export "handle") (param $tag i32) (param $ptr i32) (param $len i32) (result i32)
      (memory.copy (i32.const 98304) (local.get $ptr) (local.get $len))
      (call $emit (i32.const 32) (i32.const 98304) (local.get $len))
      (i32.const 0)))
  (core instance $i (instantiate $m
    (with "libc" (instance $libc))
    (with "host" (instance (export "emit" (func $emit))))))
  (type $failure' (record (field "code" s32) (field "message" string)))
  (export $failure "failure" (type $failure'))
  (func (export "observe") (result (list u32))
    (canon lift (core func $i "observe") (memory (core memory $libc "memory"))))
  (func (export "handle") (param "tag" u32) (param "payload" (list u8))
      (result (result (error $failure)))
    (canon lift (core func $i "handle") (memory (core memory $libc "memory"))
      (realloc (core func $libc "realloc")))))
