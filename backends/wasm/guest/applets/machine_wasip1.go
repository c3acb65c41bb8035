package applets

const machine = "wasm32"
