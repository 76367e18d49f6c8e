#!/usr/bin/env tclsh
# Stands in for AMD's HLS tool, which the tests have not: a project's own build script is carried out by a real Tcl, with the commands of the tool
# that such scripts use.  It insists on each file that is named, synthesises by copying the recorded report RECORDED_REPORT, and can do nothing else.

proc refuse {why} { puts stderr "ERROR: $why"; exit 1 }

proc open_project {args} { set ::project [lindex $args end]; file mkdir $::project }
proc set_top {name} { set ::top $name }
proc set_part {name} { set ::part $name }
proc create_clock {args} {}
proc set_clock_uncertainty {args} {}
proc config_array_partition {args} {}
proc config_compile {args} {}
proc config_schedule {args} {}
proc config_interface {args} {}

proc open_solution {args} {
    foreach word $args { if {[string index $word 0] ne "-" && $word ne "vivado"} { set ::solution $word } }
}

proc add_files {args} {
    set args [lsearch -all -inline -not -exact $args -tb]
    if {![file exists [lindex $args 0]]} { refuse "\[HLS 200-1023\] cannot find the source file [lindex $args 0]" }
}

proc csynth_design {} {
    if {[info exists ::env(SYNTHESIS_FAILS)]} { refuse "\[HLS 200-70\] $::env(SYNTHESIS_FAILS)" }
    set folder $::project/$::solution/syn/report
    file mkdir $folder
    file copy -force $::env(RECORDED_REPORT) $folder/${::top}_csynth.xml
}

proc csim_design {args} { refuse "no test data" }
proc cosim_design {args} { refuse "no simulator" }
proc export_design {args} { refuse "no Vivado" }

set words $argv
set argv {}
switch [file tail $argv0] {
    vitis-run { if {[lrange $words 0 2] ne "--mode hls --tcl"} { refuse "usage: vitis-run --mode hls --tcl SCRIPT" } }
    default { if {[lindex $words 0] ne "-f"} { refuse "usage: vitis_hls -f SCRIPT" } }
}
source [lindex $words end]
