;; A component that is handed bytes and returns a copy of them.
(component
  (core module $m
    (memory (export "memory") 3)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "process") (param $ptr i32) (param $len i32) (result i32)
      (memory.copy (i32.const 98304) (local.get $ptr) (local.get $len))
      (i32.store (i32.const 64) (i32.const 98304))
      (i32.store (i32.const 68) (local.get $len))
      (i32.const 64)))
  (core instance $i (instantiate $m))
  (func (export "process") (param "payload" (list u8)) (result (list u8))
    (canon lift (core func $i "process") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc")))))
