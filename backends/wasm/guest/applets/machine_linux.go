package applets

const machine = "x86_64"
