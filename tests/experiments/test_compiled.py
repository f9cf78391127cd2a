from collections import Counter

from experiments.bench import compiled
from experiments.bench.compiled import Convolution

# Two loops, one in the other, in the words of XLA.
TEXT = """
HloModule jit_train, is_scheduled=true

%inner_body.1 (arg.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg.1 = (s32[], f32[8]{0}) parameter(0)
  %get-tuple-element.1 = f32[8]{0} get-tuple-element(%arg.1), index=1
  %fusion.1 = f32[8]{0} fusion(%get-tuple-element.1), kind=kLoop, calls=%fused
  %gemm_fusion_dot.1 = f32[8]{0} fusion(%fusion.1), kind=kCustom, calls=%gemm
  %conv.1 = (f32[8,4]{1,0}, u8[0]{0}) custom-call(%fusion.1, %fusion.1), window={size=5x3 pad=2_2x1_1}, \
dim_labels=b01f_o01i->b01f, feature_group_count=4, custom_call_target="__cudnn$convForward"
  %conv.2 = f32[8,4]{1,0} custom-call(%fusion.1), window={size=5x3}, custom_call_target="__cudnn$convBackwardFilter"
  %copy.1 = f32[8]{0} copy(%fusion.1)
  ROOT %tuple.1 = (s32[], f32[8]{0}) tuple(%fusion.1, %copy.1)
}

%outer_body.2 (arg.2: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = f32[8]{0} fusion(%arg.2), kind=kLoop, calls=%fused
  %b = f32[8]{0} fusion(%arg.2), kind=kLoop, calls=%fused
  %c = f32[8]{0} fusion(%arg.2), kind=kLoop, calls=%fused
  %d = f32[8]{0} fusion(%arg.2), kind=kLoop, calls=%fused
  %e = f32[8]{0} sort(%arg.2), dimensions={0}
  ROOT %while.1 = (s32[], f32[8]{0}) while(%tuple.9), condition=%c1, body=%inner_body.1, \
backend_config={"known_trip_count":{"n":"7"}}
}

ENTRY %main.3 (arg.3: f32[8]) -> f32[8] {
  %while.2 = (s32[], f32[8]{0}) while(%tuple.8), condition=%c2, body=%outer_body.2
  ROOT %r = f32[8]{0} get-tuple-element(%while.2), index=1
}
""".replace("\\\n", "")


def test_reads_what_a_turn_of_the_inner_loop_does():
    launches, convolutions, turns = compiled.main_loop(TEXT)
    assert launches == Counter(fusions=1, products=1, cuDNN=2, copies=1)
    forward, gradient = Convolution("convForward", "5x3", 4), Convolution("convBackwardFilter", "5x3", 1)
    assert convolutions == {forward: 1, gradient: 1}
    assert turns == 7


def test_a_loop_of_unknown_length_says_so():
    assert compiled.main_loop(TEXT.replace("known_trip_count", "other"))[2] is None


def test_a_program_without_a_loop_has_no_launches():
    text = "ENTRY %main (a: f32[]) -> f32[] {\n  ROOT %a = f32[] parameter(0)\n}"
    assert compiled.main_loop(text) == ({}, {}, None)
