# SPDX-License-Identifier: Apache-2.0
import pytest

from foldwright.data.species import key_species, row_species, species_of


@pytest.mark.parametrize(
    ("header", "species"),
    [
        ("sp|P68871|HBB_HUMAN Hemoglobin subunit beta OS=Homo sapiens OX=9606 GN=HBB PE=1 SV=2", "9606"),
        ("tr|A0A0C5BVQ8|A0A0C5BVQ8_STAAU/1-51 [subseq from] ParR OS=S. aureus OX=1280 PE=4", "1280"),
        ("tr|E6MGJ6|E6MGJ6_9FIRM PTS system OS=Pseudoramibacter alactolyticus GN=mtlA PE=4 SV=1", "9FIRM"),
        ("tr|E6MGJ6|E6MGJ6_9FIRM/3-40", "9FIRM"),
        (
            "UniRef90_P63111/2-142 [subseq from] Hemoglobin n=8 Tax=Catarrhini TaxID=9526 RepID=HBA_PAPAN",
            "9526",
        ),
        ("UniRef100_C1BLX7 Hemoglobin n=1 Tax=Osmerus mordax RepID=C1BLX7_OSMMO", "osmerus mordax"),
        ("UniRef100_UPI0007414E1A_9544/\t135\t0.715\t1.342E-33", "9544"),
        ("UniRef100_A0A2K6QFJ4\t351\t0.950\t260\t261\tTaxId=61622", "61622"),
        ("UniRef100_UPI0000112062\t350\t0.996", ""),
        ("MGYP001491273740", ""),
        ("101", ""),
        ("DipTnscriptome_2 # 559 # 747 # -1 # ID=136006_3;partial=01", ""),
        ("", ""),
    ],
)
def test_species_of_real_kinds_of_headers(header, species):
    assert species_of(header.encode()) == species


def test_the_query_has_no_species_and_negative_keys_none():
    assert row_species([b"q OX=1", b"a OX=1", b"b"]) == ("", "1", "")
    assert (key_species(-1), key_species(0), key_species(12)) == ("", "#0", "#12")
