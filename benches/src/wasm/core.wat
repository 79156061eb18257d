;; The same work under wasm-host/ABI.md: it copies its input and emits the copy on tag 32.
(module
  (import "selvedge" "emit" (func $emit (param i32 i32 i32) (result i32)))
  (memory (export "memory") 3)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "handle") (param $tag i32) (param $ptr i32) (param $len i32) (result i32)
    (memory.copy (i32.const 98304) (local.get $ptr) (local.get $len))
    (call $emit (i32.const 32) (i32.const 98304) (local.get $len))))
