package kernel

import "strconv"

// errno is a result of a call, with the numbers of wasi_snapshot_preview1
// (https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md#errno).
type errno uint32

const (
	ok           errno = 0
	e2BIG        errno = 1
	eACCES       errno = 2
	eAGAIN       errno = 6
	eBADF        errno = 8
	eEXIST       errno = 20
	eFAULT       errno = 21
	eFBIG        errno = 22
	eINVAL       errno = 28
	eISDIR       errno = 31
	eLOOP        errno = 32
	eMFILE       errno = 33
	eMLINK       errno = 34
	eNAMETOOLONG errno = 37
	eNOENT       errno = 44
	eNOEXEC      errno = 45
	eNOMEM       errno = 48
	eNOSPC       errno = 51
	eNOTDIR      errno = 54
	eNOTEMPTY    errno = 55
	eNOTSUP      errno = 58
	eNXIO        errno = 60
	ePERM        errno = 63
	ePIPE        errno = 64
	eSPIPE       errno = 70
	eSRCH        errno = 71
)

var errnoText = map[errno]string{
	e2BIG: "Argument list too long", eACCES: "Permission denied", eAGAIN: "Resource temporarily unavailable",
	eBADF: "Bad file descriptor", eEXIST: "File exists", eFBIG: "File too large", eINVAL: "Invalid argument",
	eISDIR: "Is a directory", eLOOP: "Too many levels of symbolic links", eMFILE: "Too many open files",
	eNAMETOOLONG: "File name too long", eNOENT: "No such file or directory", eNOEXEC: "Exec format error",
	eNOMEM: "Cannot allocate memory", eNOSPC: "No space left on device", eNOTDIR: "Not a directory",
	ePERM: "Operation not permitted", eSRCH: "No such process",
}

func (e errno) Error() string {
	if s := errnoText[e]; s != "" {
		return s
	}
	return "errno " + strconv.Itoa(int(e))
}
